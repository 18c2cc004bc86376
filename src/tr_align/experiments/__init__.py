"""Many runs of the pipeline, as DVC experiments."""
