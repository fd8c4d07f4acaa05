"""The commit protocol: plan, parts, seals, manifests. No torch, no Ray, no readers."""
