"""Files on this machine and objects in Google Cloud Storage, behind one kind of path."""
