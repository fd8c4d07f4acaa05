"""The one door to bytes: no other folder opens, lists, writes or deletes a URI."""
