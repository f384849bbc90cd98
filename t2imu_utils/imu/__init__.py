"""Virtual sensors on a body's surface, and readers of real recordings (Section III-C)."""
