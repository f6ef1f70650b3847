"""Checkpoints of any size: a job that can be stopped anywhere and run again.

`quantize` is the call; `job` cuts a source into *units* and does those that are not done; `unit`
quantizes one of them into two Parquet files; `manifest` is what the dataset's directory says of
itself (`records`), `dataset` reads it, and `verify` believes none of it.
"""
