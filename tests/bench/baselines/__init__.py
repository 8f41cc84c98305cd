"""The programs that Autos is measured against."""
