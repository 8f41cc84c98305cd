"""The dashboard: pages rendered here, for people who would rather look than read JSON."""
