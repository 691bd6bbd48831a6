"""What privacy costs and how it is kept: epsilon of releases with noise, the clip that follows lengths, keyed noise."""
