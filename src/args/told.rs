//! What somebody is told whose arguments are wrong.

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// What to tell somebody whose arguments are wrong, or who asked for help.
#[derive(Debug)]
pub struct Told {
    /// The text.
    pub text: String,
    /// 0 for help, 2 for a mistake.
    pub code: u8,
}

impl Told {
    /// One line that names the flag and what would be right.
    pub(super) fn of(error: &clap::Error) -> Self {
        if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
            return Self { text: error.to_string(), code: 0 };
        }
        let context = |kind| match error.get(kind) {
            Some(ContextValue::String(text)) => Some(text.clone()),
            Some(ContextValue::Strings(texts)) => texts.first().cloned(),
            _ => None,
        };
        let flag =
            context(ContextKind::InvalidArg).or_else(|| context(ContextKind::InvalidSubcommand));
        let near = context(ContextKind::SuggestedArg)
            .or_else(|| context(ContextKind::SuggestedSubcommand))
            .map(|it| format!("; did you mean {it}?"))
            .unwrap_or_default();
        let text = if let (ErrorKind::MissingRequiredArgument, Some(flag)) = (error.kind(), &flag) {
            format!("lockgate: {flag} is missing\n")
        } else if let (ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand, Some(flag)) =
            (error.kind(), flag)
        {
            format!("lockgate: {flag} is not known{near}\n")
        } else {
            let full = error.to_string();
            let first = full.lines().next().unwrap_or_default();
            format!("lockgate: {}\n", first.trim_start_matches("error: "))
        };
        Self { text, code: 2 }
    }
}
