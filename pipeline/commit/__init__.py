"""The commit protocol: plan, parts, seals, manifests, retries. No torch, no Ray, no readers."""
