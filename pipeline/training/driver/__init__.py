"""The driving process of training: its folder, records and pages."""
