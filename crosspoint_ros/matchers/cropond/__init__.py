"""CroPond, a vision-language model that finds a clicked point in another view."""
