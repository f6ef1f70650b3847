//! What other tools call our schemes and theirs, for the message about a name that is none of ours.

/// Our name, and names of other tools for the same thing, as [`plain`] has them.
const SAME: &[(&str, &[&str])] = &[
    (
        "int4",
        &[
            "w4a16",
            "w4a16asym",
            "4bit",
            "4bits",
            "4",
            "q4",
            "uint4",
            "u4",
            "i4",
            "int4wo",
            "int4weightonly",
        ],
    ),
    (
        "int8",
        &["w8a16", "8bit", "8bits", "8", "q8", "uint8", "u8", "i8", "int8wo", "int8weightonly"],
    ),
    ("int2", &["w2a16", "2bit", "2bits", "2", "q2", "uint2", "u2", "i2", "int2wo"]),
    (
        "fp8_e4m3",
        &[
            "fp8",
            "float8",
            "f8",
            "e4m3",
            "e4m3fn",
            "fp8e4m3fn",
            "float8e4m3",
            "float8e4m3fn",
            "f8e4m3",
        ],
    ),
    ("nf4", &["normalfloat4", "bnbnf4", "bnb4bit", "bitsandbytes", "bnb"]),
    ("bnb_fp4", &["bitsandbytesfp4"]),
    ("nf4_dq", &["nf4double", "nf4doublequant", "bnbnf4dq"]),
    ("bnb_fp4_dq", &["bnbfp4double", "bnbfp4doublequant"]),
    ("mxfp4", &["ocpmxfp4", "fp4e2m1"]),
    ("mxfp8", &["ocpmxfp8", "mxfp8e4m3"]),
    ("nvfp4", &["nvfp4a16", "w4a16nvfp4", "fp4"]),
    ("mlx4", &["mlx"]),
    (
        super::NONE,
        &[
            "keep", "skip", "ignore", "fp32", "f32", "fp16", "f16", "bf16", "bfloat16", "float16",
            "float32", "",
        ],
    ),
];

/// Other tools' formats that none of ours is: how their names begin, what they are, and who writes
/// them.
const OTHERS: &[(&[&str], &str, &str)] = &[
    (
        &["q2ks", "q3ks", "q3km", "q3kl", "q4ks", "q4km", "q5ks", "q5km"],
        "a mixture of GGUF types",
        "a plan can say one scheme for each layer, such as 'q4_k' and 'q6_k'; llama-quantize knows \
         the mixture",
    ),
    (
        &["q20", "q81", "q8k", "iq1", "iq2", "iq3", "tq"],
        "a GGUF type",
        "llama.cpp's llama-quantize writes it",
    ),
    (
        &["gptq", "awq", "autoround"],
        "a method that needs calibration data",
        "llm-compressor has it",
    ),
    (&["w8a8", "w4a8", "w4a4"], "a scheme that quantizes activations too", "llm-compressor has it"),
    (&["llmint8"], "a bitsandbytes format", "bitsandbytes writes it"),
    (
        &["float8e5m2", "e5m2", "mxfp6"],
        "a format of small floats",
        "no library that we know writes it for weights",
    ),
];

/// What to say of a name that is none of ours, after a space; or nothing.
pub(super) fn hint(name: &str) -> String {
    let plain = plain(name);
    if let Some(ours) = super::names().find(|ours| self::plain(ours) == plain) {
        return format!(" It is '{ours}' here.");
    }
    let same =
        SAME.iter().find(|(ours, theirs)| *ours == plain || theirs.contains(&plain.as_str()));
    if let Some((ours, _)) = same {
        return format!(" What other tools call '{name}' is '{ours}' here.");
    }
    let begins = |(names, _, _): &&(&[&str], _, _)| names.iter().any(|n| plain.starts_with(n));
    if let Some((_, what, who)) = OTHERS.iter().find(begins) {
        return format!(" '{name}' is {what}, which arrowquant does not write yet; {who}.");
    }
    // int3 is no slip for int4.
    let digits = |name: &str| name.chars().filter(char::is_ascii_digit).collect::<String>();
    let near = |(ours, _): &&(&str, _)| {
        strsim::damerau_levenshtein(ours, &plain) == 1 && digits(ours) == digits(&plain)
    };
    match SAME.iter().find(near) {
        Some((ours, _)) => format!(" Did you mean '{ours}'?"),
        None => String::new(),
    }
}

fn plain(name: &str) -> String {
    let letters = name.chars().filter(|c| !matches!(c, '-' | '_' | ' ' | '.'));
    letters.flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_other_tools_are_translated() {
        for (theirs, ours) in [
            ("W4A16", "int4"),
            ("fp8", "fp8_e4m3"),
            ("float8_e4m3fn", "fp8_e4m3"),
            ("4-bit", "int4"),
            ("INT4", "int4"),
            ("8bit", "int8"),
            ("Q8_0", "q8_0"),
            ("q40", "q4_0"),
            ("Q4_K", "q4_k"),
            ("MXFP4", "mxfp4"),
            ("bitsandbytes", "nf4"),
        ] {
            assert!(hint(theirs).contains(&format!("'{ours}' here")), "{theirs}");
        }
    }

    #[test]
    fn what_is_another_format_is_not_called_one_of_ours() {
        for theirs in ["q4_k_m", "gptq", "AWQ", "w8a8", "iq2_xs", "tq1_0", "mxfp6", "e5m2"] {
            let hint = hint(theirs);
            assert!(hint.contains("does not write yet"), "{theirs}: {hint}");
            assert!(!hint.contains(" here."), "{theirs}: {hint}");
        }
    }

    #[test]
    fn a_slip_is_recognised() {
        assert!(hint("itn4").contains("Did you mean 'int4'?"));
        assert!(hint("nonee").contains("Did you mean 'none'?"));
        assert_eq!(hint("something") + &hint("int3"), "");
    }

    #[test]
    fn a_name_means_one_scheme() {
        let mut all: Vec<_> = SAME.iter().flat_map(|(_, theirs)| theirs.iter()).collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        let mut names = all.into_iter().chain(SAME.iter().map(|(ours, _)| ours));
        assert!(names.all(|name| !OTHERS.iter().any(|(begin, _, _)| begin.contains(name))));
    }
}
