"""The demo track's embedded data: made-up motions with sentences, and made-up IMU recordings."""
