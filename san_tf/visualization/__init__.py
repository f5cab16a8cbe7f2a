"""Figures: functions that take arrays and return a matplotlib `Figure`, without pyplot's global state."""
