import os

# Before torch is imported anywhere: tests run beside other processes, and thread counts decide the last bits.
os.environ["OMP_NUM_THREADS"] = "1"
