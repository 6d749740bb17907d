"""Fixtures of the agent's tests: the compiled agent, and agents that serve on this host."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from guest_images.agent.build import compile_agent, plan_agent
from guest_images.cache import Cache
from guest_images.provisioning import Provisioning
from tests_unit.guest_images.agent.agent_host import HostAgent


@pytest.fixture(scope="session")
def agent_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The agent, compiled exactly as for a guest."""
    if platform.machine() != "x86_64":
        pytest.skip(f"the agent is built for x86_64 guests and this host is {platform.machine()}")
    cache = Cache(tmp_path_factory.mktemp("cache"))
    return compile_agent(plan_agent(cache), Provisioning(cache, print))


@pytest.fixture
def serve(agent_program: Path, tmp_path: Path) -> Iterator[Callable[..., HostAgent]]:
    """Start an agent with the given options; it is gone when the test ends."""
    agents: list[HostAgent] = []

    def start(**options: object) -> HostAgent:
        agents.append(HostAgent.serve(agent_program, tmp_path / "agent.sock", **options))
        return agents[-1]

    yield start
    for agent in agents:
        agent.close()
