"""llama.cpp's own server tests and scripts, run against `dure serve`.

python -m tests.compat.run /path/to/llama.cpp
"""
