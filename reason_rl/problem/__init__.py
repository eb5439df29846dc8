"""Problems: records, sources and prompt formatting."""
