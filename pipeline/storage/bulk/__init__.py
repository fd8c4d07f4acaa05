"""Many small files: streams of listings of millions, and files of web servers whose addresses stand in data."""
