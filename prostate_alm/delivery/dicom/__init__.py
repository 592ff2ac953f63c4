"""Answers as DICOM objects that go back into their study."""
