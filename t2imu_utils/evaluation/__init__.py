"""Floor 4: L_acc per category, motion and signal measures, recognition, tables (Sec. III-D)."""
