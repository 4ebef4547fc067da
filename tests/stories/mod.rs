//! The stories, one file for each theme.

mod framing;
