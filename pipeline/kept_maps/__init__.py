"""New masks from the kept class maps of a published run. The drawing of a mask belongs to images/."""
