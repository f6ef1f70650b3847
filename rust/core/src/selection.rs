//! Layers that users select, by patterns of their names or by their roles.

use glob::Pattern;

use crate::error::CallError;
use crate::role::Role;

/// How a selector by role begins.
const ROLE: &str = "role:";

/// Shell patterns of names, and `role:` with a role.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    selectors: Vec<Selector>,
}

#[derive(Clone, Debug)]
struct Selector {
    text: String,
    what: What,
    matched: bool,
}

#[derive(Clone, Debug)]
enum What {
    Name(Pattern),
    Role(Role),
}

impl Selection {
    /// The selection that these texts stand for.
    ///
    /// # Errors
    /// A pattern is invalid, or there is no such role.
    pub(crate) fn try_new(texts: &[String]) -> Result<Self, CallError> {
        let selector = |text: &String| {
            let what = what(text)?;
            Ok(Selector { text: text.clone(), what, matched: false })
        };
        Ok(Self { selectors: texts.iter().map(selector).collect::<Result<_, CallError>>()? })
    }

    /// Whether it selects a layer of that name and role; what did is remembered.
    pub(crate) fn matches(&mut self, name: Option<&str>, role: Option<&str>) -> bool {
        let mut selected = false;
        for selector in &mut self.selectors {
            let matches = match &selector.what {
                What::Name(pattern) => name.is_some_and(|name| {
                    // A name that holds a pattern's characters matches itself, too.
                    selector.text == name || pattern.matches(name)
                }),
                What::Role(wanted) => role.and_then(Role::from_name) == Some(*wanted),
            };
            selector.matched |= matches;
            selected |= matches;
        }
        selected
    }

    /// What selected nothing so far.
    pub(crate) fn unmatched(&self) -> Vec<String> {
        let unmatched = self.selectors.iter().filter(|selector| !selector.matched);
        unmatched.map(|selector| selector.text.clone()).collect()
    }
}

fn what(text: &str) -> Result<What, CallError> {
    if let Some(role) = text.strip_prefix(ROLE) {
        return Role::from_name(role).map(What::Role).ok_or_else(|| CallError::UnknownChoice {
            option: "role",
            value: role.to_owned(),
            choices: Role::ALL.map(Role::name).join(", "),
        });
    }
    Pattern::new(text).map(What::Name).map_err(|error| {
        let why = error.to_string();
        CallError::InvalidPattern { pattern: text.to_owned(), why }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_roles_select() {
        let texts = ["*.q_proj.weight", "role:embedding", "experts[3]"].map(str::to_owned);
        let mut selection = Selection::try_new(&texts).unwrap();
        assert_eq!(selection.unmatched(), texts);
        assert!(selection.matches(Some("a.q_proj.weight"), None));
        assert!(selection.matches(Some("wte"), Some("embedding")));
        assert!(!selection.matches(Some("a"), Some("head")) && !selection.matches(None, None));
        assert!(selection.matches(Some("experts[3]"), Some("weight")));
        assert!(selection.unmatched().is_empty());
        assert!(Selection::try_new(&["role:heads".to_owned()]).is_err());
        assert!(Selection::try_new(&["a[".to_owned()]).is_err());
    }
}
