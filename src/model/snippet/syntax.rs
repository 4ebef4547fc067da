//! nginx's syntax: words, quotes, comments, semicolons and blocks.

use super::SnippetError;

/// Words up to a semicolon or a block.
#[derive(Debug)]
pub(super) struct Statement<'a> {
    pub(super) words: Vec<String>,
    /// What stands in its braces.
    pub(super) block: Option<&'a str>,
    line: &'a str,
}

impl Statement<'_> {
    /// What is told of it.
    pub(super) fn wrong(&self, why: &'static str) -> SnippetError {
        SnippetError { line: first_line(self.line).to_owned(), why }
    }
}

/// The next statement; `None` at the end.
pub(super) fn statement<'a>(rest: &mut &'a str) -> Result<Option<Statement<'a>>, SnippetError> {
    *rest = skip(rest);
    let whole = *rest;
    if whole.is_empty() {
        return Ok(None);
    }
    let error = |why| SnippetError { line: first_line(whole).to_owned(), why };
    let mut words = Vec::new();
    loop {
        *rest = skip(rest);
        let line = &whole[..whole.len() - rest.len()];
        match rest.chars().next() {
            None => return Err(error("ends without a semicolon")),
            Some('}') => return Err(error("holds a brace that was not opened")),
            Some(';') => {
                *rest = &rest[1..];
                return Ok(Some(Statement { words, block: None, line }));
            }
            Some('{') => {
                let inside = &rest[1..];
                // None of the blocks that are known holds another.
                let end = inside.find(['{', '}']).filter(|at| inside[*at..].starts_with('}'));
                let end = end.ok_or_else(|| error("holds a block that cannot be read"))?;
                *rest = &inside[end + 1..];
                return Ok(Some(Statement { words, block: Some(&inside[..end]), line }));
            }
            Some(_) => words.push(word(rest).ok_or_else(|| error("holds an open quote"))?),
        }
    }
}

/// Past spaces and comments.
fn skip(text: &str) -> &str {
    let mut text = text.trim_start();
    while let Some(comment) = text.strip_prefix('#') {
        text = comment.split_once('\n').map_or("", |(_, rest)| rest).trim_start();
    }
    text
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default().trim_end()
}

/// A word, quoted or not; `None` for a quote without its end.
fn word(rest: &mut &str) -> Option<String> {
    let quote = rest.chars().next().filter(|it| matches!(it, '"' | '\''));
    let mut word = String::new();
    let mut letters = rest.char_indices().skip(usize::from(quote.is_some()));
    loop {
        let Some((at, letter)) = letters.next() else {
            *rest = "";
            return quote.is_none().then_some(word);
        };
        match (letter, quote) {
            ('\\', _) => {
                let (_, next) = letters.next()?;
                // Of others the backslash stays, as regular expressions want it.
                if !matches!(next, '"' | '\'' | '\\' | ' ' | ';') {
                    word.push('\\');
                }
                word.push(next);
            }
            (it, Some(quote)) if it == quote => {
                *rest = &rest[at + 1..];
                return Some(word);
            }
            (' ' | '\t' | '\r' | '\n' | ';' | '{' | '}', None) => {
                *rest = &rest[at..];
                return Some(word);
            }
            (it, _) => word.push(it),
        }
    }
}
