//! ONNX files: their initializers and constants as tensors, and their nodes.
//!
//! Source of the format: <https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>. Messages are parsed
//! by prost, whose byte fields are slices of the file: that tells where the numbers lie in it.

use std::collections::HashSet;

use arrow_buffer::Buffer;
use bytes::Bytes;
use prost::Message;

use super::{ADVICE, Entry};
use crate::source::Source;

/// How the file's name ends.
pub(super) const SUFFIX: &str = "onnx";

/// The types of numbers: ONNX's number, our name or ONNX's, bits.
const TYPES: [(i32, &str, u64); 22] = [
    (1, "F32", 32),
    (2, "U8", 8),
    (3, "I8", 8),
    (4, "U16", 16),
    (5, "I16", 16),
    (6, "I32", 32),
    (7, "I64", 64),
    (9, "BOOL", 8),
    (10, "F16", 16),
    (11, "F64", 64),
    (12, "U32", 32),
    (13, "U64", 64),
    (14, "C64", 64),
    (16, "BF16", 16),
    (17, "F8_E4M3", 8),
    (18, "F8_E4M3FNUZ", 8),
    (19, "F8_E5M2", 8),
    (20, "F8_E5M2FNUZ", 8),
    (21, "UINT4", 4),
    (22, "INT4", 4),
    (23, "F4", 4),
    (24, "F8_E8M0", 8),
];
/// `TensorProto.DataLocation.EXTERNAL`.
const EXTERNAL: i32 = 1;

#[derive(Clone, PartialEq, Message)]
struct ModelProto {
    #[prost(message, optional, tag = "7")]
    graph: Option<GraphProto>,
    #[prost(message, repeated, tag = "8")]
    opsets: Vec<OpsetProto>,
}

#[derive(Clone, PartialEq, Message)]
struct OpsetProto {
    #[prost(string, tag = "1")]
    domain: String,
    #[prost(int64, tag = "2")]
    version: i64,
}

#[derive(Clone, PartialEq, Message)]
struct GraphProto {
    #[prost(message, repeated, tag = "1")]
    nodes: Vec<NodeProto>,
    #[prost(message, repeated, tag = "5")]
    initializers: Vec<TensorProto>,
    #[prost(message, repeated, tag = "11")]
    inputs: Vec<NamedProto>,
    #[prost(message, repeated, tag = "12")]
    outputs: Vec<NamedProto>,
}

#[derive(Clone, PartialEq, Message)]
struct NamedProto {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct NodeProto {
    #[prost(string, repeated, tag = "1")]
    inputs: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    outputs: Vec<String>,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(string, tag = "4")]
    operator: String,
    #[prost(message, repeated, tag = "5")]
    attributes: Vec<AttributeProto>,
    #[prost(string, tag = "7")]
    domain: String,
}

#[derive(Clone, PartialEq, Message)]
struct AttributeProto {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(float, tag = "2")]
    float: f32,
    #[prost(int64, tag = "3")]
    int: i64,
    #[prost(message, optional, tag = "5")]
    tensor: Option<TensorProto>,
    #[prost(message, optional, tag = "6")]
    graph: Option<GraphProto>,
    #[prost(int64, repeated, tag = "8")]
    ints: Vec<i64>,
    #[prost(message, repeated, tag = "11")]
    graphs: Vec<GraphProto>,
    #[prost(int32, tag = "20")]
    kind: i32,
}

#[derive(Clone, PartialEq, Message)]
struct TensorProto {
    #[prost(int64, repeated, tag = "1")]
    dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    kind: i32,
    /// Floats, packed: the bytes are those of the numbers.
    #[prost(bytes = "bytes", tag = "4")]
    floats: Bytes,
    #[prost(string, tag = "8")]
    name: String,
    #[prost(bytes = "bytes", tag = "9")]
    raw: Bytes,
    /// Likewise.
    #[prost(bytes = "bytes", tag = "10")]
    doubles: Bytes,
    #[prost(message, repeated, tag = "13")]
    external: Vec<PairProto>,
    #[prost(int32, tag = "14")]
    location: i32,
}

#[derive(Clone, PartialEq, Message)]
struct PairProto {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

/// A node of the graph, or of one in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its name, which may be empty.
    pub name: String,
    /// The operator's name.
    pub operator: String,
    /// Whose operator it is; empty for ONNX's own.
    pub domain: String,
    /// The values that go in; empty where one is left out.
    pub inputs: Vec<String>,
    /// The values that come out.
    pub outputs: Vec<String>,
    /// Its attributes that are numbers or lists of them.
    pub attributes: Vec<(String, Vec<f64>)>,
}

/// A tensor whose numbers lie in another file.
#[derive(Clone, Debug, PartialEq)]
pub struct External {
    /// The file, relative to the model's directory.
    pub file: String,
    /// The tensor; where nobody says its length, that of its shape.
    pub entry: Entry,
}

/// A model without its numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    /// All nodes, those of graphs in the graph among them.
    pub nodes: Vec<Node>,
    /// The values that come out of the model.
    pub outputs: Vec<String>,
    /// Domains of operators and their versions.
    pub opsets: Vec<(String, i64)>,
    /// The tensors whose numbers lie in the file.
    pub entries: Vec<Entry>,
    /// Those whose numbers lie in others.
    pub external: Vec<External>,
    /// The values that graphs in the graph name themselves, and those that come out of them.
    pub nested: (Vec<String>, Vec<String>),
    /// Tensors that are no rows, and stay in the graph as they are: of graphs in the graph, of texts,
    /// or written number by number.
    pub others: Vec<String>,
}

struct Owned(Buffer);

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        self.0.as_slice()
    }
}

/// Read a model.
///
/// # Errors
/// The file can't be read, is none, or a tensor's numbers are not as many as its shape says.
pub fn read(source: &Source) -> Result<Graph, String> {
    super::check_no_pointer(source)?;
    let (buffer, start) = source.bytes(0..source.size()).map_err(|error| error.to_string())?;
    let file =
        Bytes::from_owner(Owned(buffer)).slice(start as usize..(start + source.size()) as usize);
    let model = ModelProto::decode(file.clone())
        .map_err(|error| format!("is no ONNX model: {error}. {ADVICE}"))?;
    let graph =
        model.graph.ok_or_else(|| format!("is no ONNX model: it has no graph. {ADVICE}"))?;
    let mut found = Graph {
        outputs: graph.outputs.iter().map(|output| output.name.clone()).collect(),
        opsets: model.opsets.into_iter().map(|opset| (opset.domain, opset.version)).collect(),
        ..Graph::default()
    };
    let mut names = HashSet::new();
    let constants = graph.nodes.iter().filter_map(constant);
    let tensors = graph.initializers.iter().map(|tensor| (tensor.name.as_str(), tensor));
    for (name, tensor) in tensors.chain(constants) {
        if !names.insert(name) {
            return Err(format!("two tensors are called '{name}'. {ADVICE}"));
        }
        found.add(name, tensor, &file).map_err(|why| format!("tensor '{name}' {why}. {ADVICE}"))?;
    }
    found.walk(&graph, false);
    Ok(found)
}

/// The tensor that a node is, and its name.
fn constant(node: &NodeProto) -> Option<(&str, &TensorProto)> {
    let [output] = node.outputs.as_slice() else { return None };
    let is_constant = node.operator == "Constant" && is_own(&node.domain);
    let value = node.attributes.iter().find(|attribute| attribute.name == "value");
    value.filter(|_| is_constant)?.tensor.as_ref().map(|tensor| (output.as_str(), tensor))
}

fn is_own(domain: &str) -> bool {
    matches!(domain, "" | "ai.onnx")
}

impl Graph {
    fn add(&mut self, name: &str, tensor: &TensorProto, file: &Bytes) -> Result<(), String> {
        let Some((_, dtype, bits)) = TYPES.iter().find(|(kind, ..)| *kind == tensor.kind) else {
            self.others.push(name.to_owned());
            return Ok(());
        };
        let elements = tensor.dims.iter().try_fold(1u64, |all, &size| {
            u64::try_from(size).ok().and_then(|size| all.checked_mul(size))
        });
        let total = elements.and_then(|elements| elements.checked_mul(*bits));
        let total = total.ok_or_else(|| format!("has the shape {:?}", tensor.dims))?;
        let bytes = total.div_ceil(8);
        if !total.is_multiple_of(8) {
            self.others.push(name.to_owned());
            return Ok(());
        }
        let (name, dtype, shape) = (name.to_owned(), (*dtype).to_owned(), tensor.dims.clone());
        if tensor.location == EXTERNAL {
            let (file, start) = place(tensor, bytes)?;
            let end = start.checked_add(bytes).ok_or_else(|| "lies nowhere".to_owned())?;
            self.external.push(External { file, entry: Entry { name, dtype, shape, start, end } });
            return Ok(());
        }
        let numbers = match tensor.kind {
            _ if !tensor.raw.is_empty() => &tensor.raw,
            1 => &tensor.floats,
            11 => &tensor.doubles,
            _ => &tensor.raw,
        };
        if numbers.is_empty() && bytes > 0 {
            self.others.push(name);
            return Ok(());
        }
        if numbers.len() as u64 != bytes {
            return Err(format!("has {} bytes, but its shape asks for {bytes}", numbers.len()));
        }
        let start = match numbers.is_empty() {
            true => 0,
            false => (numbers.as_ptr() as usize).wrapping_sub(file.as_ptr() as usize) as u64,
        };
        let end = start.checked_add(bytes).filter(|&end| end <= file.len() as u64);
        let end = end.ok_or_else(|| "lies outside the file".to_owned())?;
        self.entries.push(Entry { name, dtype, shape, start, end });
        Ok(())
    }

    /// Note the nodes of a graph, and of the graphs in it.
    fn walk(&mut self, graph: &GraphProto, is_nested: bool) {
        for node in &graph.nodes {
            let numbers = node.attributes.iter().filter_map(|attribute| {
                let numbers = match attribute.kind {
                    1 => vec![f64::from(attribute.float)],
                    2 => vec![attribute.int as f64],
                    7 => attribute.ints.iter().map(|&int| int as f64).collect(),
                    _ => return None,
                };
                Some((attribute.name.clone(), numbers))
            });
            self.nodes.push(Node {
                name: node.name.clone(),
                operator: node.operator.clone(),
                domain: if is_own(&node.domain) { String::new() } else { node.domain.clone() },
                inputs: node.inputs.clone(),
                outputs: node.outputs.clone(),
                attributes: numbers.collect(),
            });
            if is_nested && let Some((name, _)) = constant(node) {
                self.others.push(name.to_owned());
            }
            for inner in node.attributes.iter().flat_map(|one| one.graph.iter().chain(&one.graphs))
            {
                let tensors = inner.initializers.iter().map(|tensor| tensor.name.clone());
                self.others.extend(tensors.clone());
                let (own, outputs) = &mut self.nested;
                own.extend(tensors.chain(inner.inputs.iter().map(|input| input.name.clone())));
                own.extend(inner.nodes.iter().flat_map(|node| node.outputs.iter().cloned()));
                outputs.extend(inner.outputs.iter().map(|output| output.name.clone()));
                self.walk(inner, true);
            }
        }
    }
}

/// The file that a tensor's numbers lie in, and from where on.
fn place(tensor: &TensorProto, bytes: u64) -> Result<(String, u64), String> {
    let said = |key: &str| tensor.external.iter().find(|pair| pair.key == key);
    let number = |key: &str| match said(key) {
        None => Ok(None),
        Some(pair) => pair
            .value
            .parse::<u64>()
            .map(Some)
            .map_err(|_| format!("has the {key} '{}' in another file", pair.value)),
    };
    let file = said("location").map(|pair| pair.value.clone());
    let file = file.ok_or_else(|| "is in another file, whose name is missing".to_owned())?;
    if let Some(length) = number("length")?.filter(|&length| length != bytes) {
        return Err(format!("has {length} bytes, but its shape asks for {bytes}"));
    }
    Ok((file, number("offset")?.unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    fn source(bytes: Vec<u8>) -> Source {
        Source::given(Path::new("model.onnx"), Buffer::from_vec(bytes))
    }

    fn tensor(name: &str, dims: &[i64], kind: i32) -> TensorProto {
        TensorProto { name: name.to_owned(), dims: dims.to_vec(), kind, ..TensorProto::default() }
    }

    fn model(initializers: Vec<TensorProto>, nodes: Vec<NodeProto>) -> Vec<u8> {
        let graph = GraphProto { nodes, initializers, ..GraphProto::default() };
        ModelProto { graph: Some(graph), opsets: Vec::new() }.encode_to_vec()
    }

    fn inline() -> Vec<u8> {
        let numbers = |count: u8| Bytes::from((0..count).collect::<Vec<_>>());
        let raw = TensorProto { raw: numbers(12), ..tensor("w", &[3, 2], 10) };
        let floats = TensorProto { floats: numbers(8), ..tensor("f", &[2], 1) };
        let value = TensorProto { raw: numbers(4), ..tensor("", &[4], 2) };
        let attribute = AttributeProto {
            name: "value".to_owned(),
            tensor: Some(value),
            kind: 4,
            ..AttributeProto::default()
        };
        let node = NodeProto {
            operator: "Constant".to_owned(),
            outputs: vec!["c".to_owned()],
            attributes: vec![attribute],
            ..NodeProto::default()
        };
        model(vec![raw, floats], vec![node])
    }

    #[test]
    fn tensors_are_where_their_numbers_lie() {
        let bytes = inline();
        let graph = read(&source(bytes.clone())).unwrap();
        let found: Vec<_> = graph.entries.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(found, ["w", "f", "c"]);
        for (entry, count) in graph.entries.iter().zip([12u8, 8, 4]) {
            let expected: Vec<u8> = (0..count).collect();
            assert_eq!(bytes[entry.start as usize..entry.end as usize], expected, "{entry:?}");
        }
    }

    #[test]
    fn a_tensor_in_another_file_says_where() {
        let pair =
            |key: &str, value: &str| PairProto { key: key.to_owned(), value: value.to_owned() };
        let external = |pairs: Vec<PairProto>| TensorProto {
            external: pairs,
            location: EXTERNAL,
            ..tensor("w", &[2, 2], 1)
        };
        let far = external(vec![pair("location", "w.data"), pair("offset", "64")]);
        let graph = read(&source(model(vec![far], vec![]))).unwrap();
        assert_eq!(graph.external[0].file, "w.data");
        assert_eq!((graph.external[0].entry.start, graph.external[0].entry.end), (64, 80));
        for wrong in [
            vec![pair("offset", "0")],
            vec![pair("location", "w"), pair("offset", "-1")],
            vec![pair("location", "w"), pair("length", "15")],
            vec![pair("location", "w"), pair("offset", "18446744073709551615")],
        ] {
            assert!(read(&source(model(vec![external(wrong)], vec![]))).is_err());
        }
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let short = TensorProto { raw: Bytes::from_static(&[0; 3]), ..tensor("w", &[2], 10) };
        let large = tensor("w", &[i64::MAX, i64::MAX], 1);
        let negative = tensor("w", &[-1], 1);
        let twice = vec![tensor("w", &[0], 1), tensor("w", &[0], 1)];
        for tensors in [vec![short], vec![large], vec![negative], twice] {
            assert!(read(&source(model(tensors, vec![]))).is_err());
        }
        assert!(read(&source(Vec::new())).is_err());
    }

    proptest! {
        #[test]
        fn nothing_is_trusted(flips in prop::collection::vec((any::<usize>(), any::<u8>()), 1..8)) {
            let mut bytes = inline();
            for (at, value) in flips {
                let at = at % bytes.len();
                bytes[at] = value;
            }
            let size = bytes.len() as u64;
            if let Ok(graph) = read(&source(bytes)) {
                for entry in graph.entries {
                    prop_assert!(entry.start <= entry.end && entry.end <= size);
                }
            }
        }
    }
}
