"""Fast ways to compute what `cmkd.functional` defines: C on CPU, Triton on CUDA. Neither is needed."""
