"""SMPL bodies: the model (`smpl`), the bodies of Table I (`table1`), joints to pose (`fitting`).

`build_open_body` makes the open model file and is the only module that needs `anny`.
"""
