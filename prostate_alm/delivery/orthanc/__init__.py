"""A node of a PACS: studies of an Orthanc server are answered once each."""
