"""What a model is tuned with: files of examples become rows of tokens with a loss weight for each.

Refuses to know torch: everything here is numpy and plain values.
"""
