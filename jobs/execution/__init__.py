"""What each command does once its options are read; imports PyTorch, Ray and Arrow, unlike the options."""
