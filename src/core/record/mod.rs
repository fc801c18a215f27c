//! Records of a stream, decoded from a GetRecords answer.
