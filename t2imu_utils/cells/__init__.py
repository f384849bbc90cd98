"""The work of one model in one stage: what notebooks do for each model, and a cluster in jobs.

``python -m t2imu_utils.cells STAGE --track demo --model mdm`` does one of them; the notebook of the
stage then finds it done. What exists already and is made of the same things is left as it is.
"""
