"""Reads files of a folder, a zip archive or a tar archive in place."""
