"""Reports: tables for the terminal, and one offline HTML page."""
