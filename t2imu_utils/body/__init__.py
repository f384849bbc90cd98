"""SMPL bodies: the model (`smpl`), the bodies of Table I (`table1`), joints to pose (`fitting`)."""
