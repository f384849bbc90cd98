"""Virtual sensors on a body's surface, and what real ones say of them (Section III-C)."""
