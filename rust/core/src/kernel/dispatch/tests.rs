//! All levels of this CPU give the same bits.

use proptest::prelude::*;

use crate::dtype::{Float, ScaleDtype};
use crate::kernel::dispatch;
use crate::kernel::squares::PRECISION;
use crate::kernel::tile::{
    Bounds, Buffers, Codes, Encoded, Grouping, Importance, Next, PAIRS, Search, Tile, Values,
};
use crate::lanes::{LINE, Level};
use crate::scheme::{self, Geometry, Sums};
use crate::settings::{GROUP_SIZE, SCALE_DTYPE, SYMMETRIC, Settings, Value};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Numbers {
    /// Any bits at all.
    Any,
    /// Like weights, whose groups are simple.
    Tame,
    /// By turns like weights and so small that scales of binary16 are subnormal.
    Mixed,
    /// Where asymmetric, nothing but the smallest numbers have an error, whose squares' sum is too small
    /// for float32 in types that have such numbers.
    Faint,
}

#[derive(Debug, PartialEq)]
struct Everything {
    finite: bool,
    values: Vec<u32>,
    ranges: Vec<Bounds>,
    data: Vec<u8>,
    scales: Vec<u32>,
    zero_points: Vec<u8>,
    decoded: Vec<u32>,
    sums: Vec<Sums>,
    of_halves: Vec<Vec<Sums>>,
    narrowed: Vec<u8>,
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Every kernel once over rows of `grouping.columns` elements.
fn everything(
    level: Level,
    name: &str,
    source: Float,
    grouping: Grouping,
    bytes: &[u8],
) -> Everything {
    let Ok(scheme::Choice::Encode(scheme)) = scheme::find(name) else { unreachable!() };
    let settings = Settings::default()
        .with(GROUP_SIZE, Value::Integer(grouping.group_size as i64))
        .with(SYMMETRIC, Value::Flag(grouping.symmetric))
        .with(SCALE_DTYPE, Value::Choice(grouping.scale_dtype.name()));
    let (columns, group_size) = (grouping.columns, grouping.group_size);
    let count = bytes.len() / source.width();
    let rows = count / columns;
    let mut values = vec![0.0; count];
    dispatch::to_f32(level, source, bytes, &mut values);
    let raw = values.clone();
    for value in values.iter_mut().filter(|value| !value.is_finite()) {
        *value = 1.0;
    }
    let mut ranges = vec![Bounds::ZERO; rows * grouping.groups()];
    let finite = dispatch::survey(level, &values, columns, group_size, &mut ranges);
    // Without the numbers that were replaced above.
    let mut halves = vec![0; if source.width() == 2 { bytes.len() } else { 0 }];
    if !halves.is_empty() {
        dispatch::from_f32(level, source, &values, &mut halves);
        if columns.is_multiple_of(group_size) && group_size.is_multiple_of(PAIRS) {
            let survey = |halves: &[u8], ranges: &mut [Bounds]| {
                dispatch::survey_halves(level, source, halves, group_size, ranges)
            };
            let mut same = vec![Bounds::ZERO; ranges.len()];
            assert_eq!((survey(&halves, &mut same), &same), (finite, &ranges));
            let all_finite = raw.iter().all(|value| value.is_finite());
            assert_eq!(survey(&bytes[..halves.len()], &mut same), all_finite);
        }
    }
    let bound = scheme.bind(&Geometry { rows, columns, source }, &settings).unwrap();
    let (layout, scheme) = (bound.layout, bound.codec);
    let mut data = vec![0; layout.data_bytes().unwrap()];
    let mut scales = vec![0.0; layout.scale_count().unwrap()];
    let mut zero_points = vec![0; layout.zero_point_count().unwrap()];
    // Two rows of the tensor a part, where that comes out even.
    let parts = if rows.is_multiple_of(2) { rows / 2 } else { rows };
    let part = count / parts;
    let (values, ranges) = (values.as_slice(), ranges.as_slice());
    let of_tile = Values::Float32(values);
    let tile = Tile {
        grouping,
        width: columns,
        values: of_tile,
        phase: 0,
        ranges,
        tensor_scale: 1.0,
        search: Search::None,
        signed_scales: false,
        importance: Importance::default(),
        source: bytes,
    };
    let out = Encoded {
        data: &mut data,
        scales: &mut scales,
        zero_points: &mut zero_points,
        biases: &mut [],
    };
    let (mut buffers, mut sums) = (Buffers::default(), vec![Sums::default(); parts]);
    let (mut raw_ranges, mut on_the_way) = (ranges.to_vec(), ranges.to_vec());
    let raw_finite = dispatch::survey(level, &raw, columns, group_size, &mut raw_ranges);
    let mut next = Next { values: &raw, ranges: &mut on_the_way, finite: None };
    scheme.encode(level, &tile, out, &mut buffers, &mut sums, Some(&mut next));
    let found = next.finite;
    let close = |a: f64, b: f64| (a - b).abs() <= PRECISION * a.max(b) || a.max(b) < 1e-290;
    let mut of_halves = Vec::new();
    if !halves.is_empty() {
        let tile = Tile { values: Values::Halves(source, &halves), source: &halves, ..tile };
        // Past the caches go aligned vectors only, of 16 or 32 bytes.
        let past = level.for_output(usize::MAX);
        for (level, beside) in [(level, 0), (past, 0), (past, 4), (past, 16)] {
            let mut room = vec![1; data.len() + LINE + beside];
            let at = room.as_ptr().align_offset(LINE) + beside;
            let same = &mut room[at..][..data.len()];
            let mut same_sums = vec![Sums::default(); parts];
            let (mut s, mut z) = (vec![0.0; scales.len()], vec![0; zero_points.len()]);
            let out =
                Encoded { data: &mut *same, scales: &mut s, zero_points: &mut z, biases: &mut [] };
            // No codes of before are in them.
            let mut buffers = Buffers::default();
            scheme.encode(level, &tile, out, &mut buffers, &mut same_sums, None);
            dispatch::fence(level);
            assert_eq!((&*same, bits(&s), z), (&*data, bits(&scales), zero_points.clone()));
            let same = |(a, b): (&Sums, &Sums)| {
                a.max_abs_error == b.max_abs_error
                    && close(a.squared_error, b.squared_error)
                    && close(a.squared, b.squared)
            };
            // Those of bfloat16 numbers may be added up in another order.
            let same = sums == same_sums || sums.iter().zip(&same_sums).all(same);
            assert!(same, "{sums:?} {same_sums:?}");
            of_halves.push(same_sums);
        }
        assert!(source == Float::BF16 || of_halves[0] == sums);
        assert!(of_halves.iter().all(|sums| sums == &of_halves[0]));
    }
    if let Some(finite) = found {
        let ends = |ranges: &[Bounds]| -> Vec<[u32; 2]> {
            ranges.iter().map(|range| [range.lo, range.hi].map(f32::to_bits)).collect()
        };
        assert_eq!((finite, ends(&on_the_way)), (raw_finite, ends(&raw_ranges)));
    }
    let codes = Codes {
        grouping,
        width: columns,
        phase: 0,
        data: &data,
        scales: &scales,
        zero_points: &zero_points,
        biases: &[],
        tensor_scale: 1.0,
    };
    let mut decoded = vec![0.0; count];
    scheme.decode(level, &codes, &mut buffers.codes, &mut decoded);
    // Past the caches go whole lines only.
    let mut room = vec![0.0; count + LINE / 4];
    let at = room.as_ptr().align_offset(LINE);
    let past = &mut room[at..][..count];
    scheme.decode(level.for_output(usize::MAX), &codes, &mut buffers.codes, past);
    assert_eq!(bits(past), bits(&decoded));
    let mut narrowed = vec![0; bytes.len()];
    dispatch::from_f32(level, source, &decoded, &mut narrowed);
    // The sums are those of what is decoded, up to how they are rounded.
    let parts = values.chunks(part).zip(decoded.chunks(part)).zip(&sums);
    for ((values, decoded), sums) in parts {
        let wide: Vec<u8> = values.iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect();
        let plain = dispatch::sums_f64(level, &wide, decoded);
        assert_eq!(sums.max_abs_error, plain.max_abs_error);
        assert!(close(sums.squared_error, plain.squared_error), "{sums:?} {plain:?}");
        assert!(close(sums.squared, plain.squared), "{sums:?} {plain:?}");
    }
    Everything {
        finite,
        values: bits(values),
        ranges: ranges.to_vec(),
        data,
        scales: bits(&scales),
        zero_points,
        decoded: bits(&decoded),
        sums,
        of_halves,
        narrowed,
    }
}

proptest! {
    // There are many ways through the kernels, and a case takes them but a few hundred microseconds.
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn levels_agree(
        random in prop::collection::vec(any::<u64>(), 1..600),
        kind in prop::sample::select(vec![Numbers::Any, Numbers::Tame, Numbers::Mixed, Numbers::Faint]),
        (name, top) in prop::sample::select(vec![("int8", 255.0), ("int4", 15.0), ("int2", 3.0)]),
        source in prop_oneof![
            prop::sample::select(Float::ALL.to_vec()),
            prop::sample::select(vec![Float::BF16, Float::F16]),
        ],
        (columns, group_size) in prop_oneof![
            (prop_oneof![1usize..200, 500usize..3000], 1usize..150),
            // Whole groups.
            (1usize..8, prop::sample::select(vec![16, 32, 64, 128, 520, 1040, 1056]))
                .prop_map(|(groups, size)| (groups * size, size)),
        ],
        symmetric: bool,
        scale_dtype in prop::sample::select(ScaleDtype::CHOICES.to_vec()),
    ) {
        let mut bytes: Vec<u8> = random.iter().flat_map(|word| word.to_le_bytes()).collect();
        if kind != Numbers::Any {
            let words = bytes.as_chunks::<4>().0.iter().map(|word| i32::from_le_bytes(*word));
            let value = |(at, word): (usize, i32)| match (kind, word.rem_euclid(3)) {
                (Numbers::Tame, _) => word as f32 / 2f32.powi(34),
                (Numbers::Mixed, _) if at / 96 % 2 == 0 => word as f32 / 2f32.powi(34),
                (Numbers::Mixed, _) => word as f32 / 2f32.powi(46),
                (_, 0) => 2f32.powi(-60),
                (_, 1) => 0.0,
                _ => top / 256.0,
            };
            let values: Vec<f32> = words.enumerate().map(value).collect();
            bytes = vec![0; values.len() * source.width()];
            dispatch::from_f32(Level::BASELINE, source, &values, &mut bytes);
        }
        // Scales of any bits at all need not fit binary16.
        let fits = kind != Numbers::Any || scale_dtype != ScaleDtype::F16;
        let scale_dtype = if fits { scale_dtype } else { ScaleDtype::F32 };
        let columns = columns.min(bytes.len() / source.width());
        let group_size = group_size.min(columns);
        let whole_rows = bytes.len() / source.width() / columns * columns * source.width();
        let grouping = Grouping { columns, group_size, symmetric, scale_dtype };
        let run = |level| everything(level, name, source, grouping, &bytes[..whole_rows]);
        let expected = run(Level::BASELINE);
        for level in Level::available() {
            prop_assert_eq!(&run(level), &expected, "{:?}", level);
        }
    }
}
