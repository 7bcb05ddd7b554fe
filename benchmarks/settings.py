"""Settings of a command line, `--set KEY=VALUE …`."""

import yaml

from residual_st.errors import InputError


def settings_of(given: list[str]) -> dict:
    """The settings with values parsed as YAML. Raises InputError for a setting without `=`."""
    settings = {}
    for setting in given:
        key, equals, value = setting.partition("=")
        if not equals:
            raise InputError(f"--set {setting} must be of the form KEY=VALUE")
        settings[key] = yaml.safe_load(value)
    return settings
