"""`tagmask review`: a page of a published run for people who judge masks. What draws masks anew is elsewhere."""
