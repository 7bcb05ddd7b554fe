from . import models  # noqa: F401

print("foreign user dir loaded")  # as those of others do
