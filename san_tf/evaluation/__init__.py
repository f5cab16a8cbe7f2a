"""Embedding, distances, rankings by every protocol of the field, verification and calibration."""
