"""The work of one model in one stage: what notebooks do for each model, and a cluster in jobs.

``python -m t2imu_utils.cells STAGE --track demo --model mdm`` does one of them; the notebook that
compares all models then reads what they wrote.
"""
