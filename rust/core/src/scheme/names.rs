//! What other tools call our schemes, for the message about a name that is none of ours.

/// Our name, and names of other tools for about the same thing, in lower case without `-` and `_`.
const ALIASES: &[(&str, &[&str])] = &[
    (
        "int4",
        &[
            "w4a16",
            "w4a16asym",
            "q4",
            "q40",
            "q41",
            "q4k",
            "q4km",
            "q4ks",
            "4bit",
            "4bits",
            "4",
            "uint4",
            "u4",
            "i4",
            "awq",
            "gptq",
            "int4wo",
            "int4weightonly",
            "bnb4bit",
        ],
    ),
    (
        "int8",
        &[
            "w8a16",
            "w8a8",
            "q8",
            "q80",
            "q81",
            "8bit",
            "8bits",
            "8",
            "uint8",
            "u8",
            "i8",
            "int8wo",
            "int8weightonly",
            "llmint8",
            "bnb8bit",
        ],
    ),
    ("int2", &["w2a16", "q2", "q2k", "2bit", "2bits", "2", "uint2", "u2", "i2", "int2wo"]),
    (
        super::NONE,
        &[
            "keep", "skip", "fp32", "f32", "fp16", "f16", "bf16", "bfloat16", "float16", "float32",
            "",
        ],
    ),
];

/// ` 'q4' of other tools is called 'int4' here.`, or nothing.
pub(super) fn hint(name: &str) -> String {
    let plain: String = name
        .chars()
        .filter(|c| !matches!(c, '-' | '_' | ' '))
        .flat_map(char::to_lowercase)
        .collect();
    let ours =
        ALIASES.iter().find(|(ours, theirs)| *ours == plain || theirs.contains(&plain.as_str()));
    match ours {
        Some((ours, _)) => format!(" What other tools call '{name}' is '{ours}' here."),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_other_tools_are_translated() {
        for (theirs, ours) in [
            ("W4A16", "int4"),
            ("q4", "int4"),
            ("4bit", "int4"),
            ("Q8_0", "int8"),
            ("INT4", "int4"),
        ] {
            assert!(hint(theirs).contains(&format!("'{ours}' here")), "{theirs}");
        }
        assert_eq!(hint("int3"), "");
    }

    #[test]
    fn an_alias_means_one_scheme() {
        let mut all: Vec<_> = ALIASES.iter().flat_map(|(_, theirs)| theirs.iter()).collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
