"""Folders and tables of a collection as an audit lists and reads them."""
