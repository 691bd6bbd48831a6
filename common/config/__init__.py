"""Configuration: the schema, the loader and the rules that span sections."""

from common.config.checks import Role, client_problems, server_problems
from common.config.loader import load_config, values_in_list, vary
from common.config.render import notes, protection, render
from common.config.schema import Config
from common.config.values import location

__all__ = [
    "Config",
    "Role",
    "client_problems",
    "load_config",
    "location",
    "notes",
    "protection",
    "render",
    "server_problems",
    "values_in_list",
    "vary",
]
