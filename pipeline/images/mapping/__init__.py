"""Images of one shape -> class maps on their patch grids: the work on the device."""
