"""What a process reads from its environment."""

from __future__ import annotations

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

DEFAULT_URL = "redis://127.0.0.1:6379/0"


class Settings(BaseSettings):
    """``GPUBROKER_REDIS_URL`` and ``GPUBROKER_POOL``; the URL may carry a password, so it is never printed."""

    model_config = SettingsConfigDict(env_prefix="GPUBROKER_", extra="ignore")

    redis_url: SecretStr = SecretStr(DEFAULT_URL)
    pool: str = "default"
