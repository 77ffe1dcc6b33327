"""The contract of an agent, a module for each part of it; users subclass ``AgentContract``."""
