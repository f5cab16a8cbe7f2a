"""Files of a folder, a zip or a tar archive, read in place."""
