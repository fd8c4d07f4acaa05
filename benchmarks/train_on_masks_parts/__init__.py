"""Parts of `benchmarks.train_on_masks`: pairs of photo and mask, the network and its training."""
