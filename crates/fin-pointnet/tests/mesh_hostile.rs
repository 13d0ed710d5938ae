//! Meshes that are broken or ask for more than they hold, and what reading them allocates: no more
//! than twice the file's size and 64 MiB at any time.

#[path = "../../fin-core/tests/hostile/counting.rs"]
mod counting;

use std::path::Path;

use fin_core::Error;
use fin_pointnet::mesh::{Mesh, MeshFormat, render};

/// Reads a file of these bytes and uses what is in it; holds reading to the rule.
fn read(name: &str, bytes: &[u8]) -> Result<Mesh, String> {
    let format = MeshFormat::from_path(name).unwrap();
    let read = || Mesh::read(format, bytes, Path::new(name));
    match counting::within_limits(bytes.len(), read) {
        Ok(mesh) => {
            assert!(mesh.vertices().iter().flatten().all(|x| x.is_finite()));
            let points = mesh.sample(16, 0);
            assert!(
                points.iter().flatten().all(|x| x.is_finite()),
                "{name}: {points:?}"
            );
            assert_eq!(render(&mesh, 4).len(), 48);
            Ok(mesh)
        }
        Err(error) => {
            assert!(matches!(
                error,
                Error::InvalidFile { .. } | Error::Row { .. } | Error::Io { .. }
            ));
            Err(error.to_string())
        }
    }
}

#[track_caller]
fn assert_refused(name: &str, bytes: impl AsRef<[u8]>, reason: &str) {
    match read(name, bytes.as_ref()) {
        Ok(mesh) => panic!("{name} was read: {mesh:?}"),
        Err(error) => assert!(error.contains(reason) && error.contains('.'), "{error}"),
    }
}

#[track_caller]
fn assert_read(name: &str, bytes: impl AsRef<[u8]>) -> Mesh {
    read(name, bytes.as_ref()).unwrap()
}

const TRIANGLE: &str = "v 0 0 0\nv 1 0 0\nv 0 1 0\n";

#[test]
fn triangles_without_area_are_kept_and_never_sampled() {
    let mesh = assert_read("a.obj", format!("{TRIANGLE}f 1 1 2\nf 1 2 3\nf 2 2 2\n"));
    assert_eq!(mesh.triangles().len(), 3);
    assert!(mesh.sample(100, 0).iter().all(|p| p[0] > 0.0 && p[1] > 0.0));
    assert_refused(
        "a.obj",
        format!("{TRIANGLE}f 1 1 2\n"),
        "none of its 1 triangle(s) has an area",
    );
    assert_refused(
        "a.obj",
        "v 1 1 1\nv 2 2 2\nv 3 3 3\nf 1 2 3\n",
        "has an area",
    );
}

#[test]
fn faces_of_fewer_corners_are_left_out() {
    let mesh = assert_read("a.obj", format!("{TRIANGLE}f 1 2\nf 1\nf\nf 1 2 3\n"));
    assert_eq!(mesh.triangles(), [[0, 1, 2]]);
    assert_refused(
        "a.obj",
        format!("{TRIANGLE}f 1 2\n"),
        "1 face(s), but none with three corners",
    );
    let header = ply_header("ascii", 3, 2);
    let ply = format!("{header}0 0 0\n1 0 0\n0 1 0\n2 0 1\n3 0 1 2\n");
    assert_eq!(assert_read("a.ply", ply).triangles(), [[0, 1, 2]]);
}

#[test]
fn places_that_are_none() {
    for word in ["nan", "inf", "-inf", "1e39"] {
        let used = format!("v 0 0 0\nv 1 {word} 0\nv 0 1 0\nf 1 2 3\n");
        assert_refused("a.obj", used, "vertex 1 (counted from 0) of triangle 0");
        // Where no face uses it, it is nowhere.
        let mesh = assert_read("a.obj", format!("{TRIANGLE}v {word} 0 0\nf 1 2 3\n"));
        assert_eq!(mesh.vertices()[3], mesh.vertices()[0]);
        // A cloud goes without.
        let cloud = assert_read("a.xyz", format!("1 2 3\n{word} 0 0\n4 5 6\n"));
        assert_eq!(cloud.vertices().len(), 2);
    }
    assert_refused(
        "a.xyz",
        "nan 2 3\ninf 0 0\n",
        "all 2 points are NaN or infinite",
    );
    // A place of double precision that single precision has none for is one from the origin.
    let far = assert_read("a.xyz", "1e39 2 3\n1e39 2 4\n");
    assert_eq!(far.vertices(), [[0.0; 3], [0.0, 0.0, 1.0]]);
    // Normals stay with their points.
    let cloud = assert_read(
        "a.off",
        "NOFF\n3 0 0\n0 0 0 1 0 0\nnan 0 0 0 1 0\n1 1 1 0 0 0\n",
    );
    assert_eq!(cloud.normals().unwrap(), [[1.0, 0.0, 0.0], [0.0; 3]]);
}

#[test]
fn nothing_and_one_point() {
    for (name, bytes, reason) in [
        ("a.ply", "", "end_header"),
        ("a.obj", "", "no vertices"),
        ("a.obj", "\n\n", "no vertices"),
        ("a.off", "", "empty"),
        ("a.off", "OFF", "ends after its keyword"),
        ("a.off", "OFF\n0 0 0\n", "no vertices"),
        ("a.stl", "", "neither text"),
        ("a.stl", "solid a\nendsolid a\n", "no triangles"),
        ("a.gltf", "", "not the JSON"),
        (
            "a.gltf",
            "{}",
            "not the JSON of glTF: missing field `asset`",
        ),
        ("a.gltf", r#"{"asset":{"version":"2.0"}}"#, "no vertices"),
        ("a.glb", "glTF", "ends within its header, at byte 4"),
        ("a.pcd", "", "no line `DATA`"),
        ("a.npy", "", "not a .npy file"),
        ("a.xyz", "", "no vertices"),
        ("a.xyz", "# nothing\n", "no vertices"),
        ("a.xyz", "0\n", "no vertices"),
    ] {
        assert_refused(name, bytes, reason);
    }
    let point = assert_read("a.obj", "v 1 2 3\n");
    assert!(point.is_point_cloud());
    assert_eq!(point.sample(3, 0), [[1.0, 2.0, 3.0]; 3]);
}

#[test]
fn numbers_of_vertices_that_are_not_there() {
    for (face, reason) in [
        (
            "f 1 2 4",
            "line 4: a face refers to vertex 3 (counted from 0), but there are 3",
        ),
        ("f 1 2 0", "`0` refers to vertex 0"),
        ("f 1 2 -4", "`-4` counts back beyond the first of the 3"),
        ("f 1 2 -9223372036854775808", "counts back"),
        ("f 1 2 9223372036854775808", "is not a whole number"),
        ("f 1 2 4294967297", "vertex 4294967296"),
        ("f 1 2 x", "`x` is not a whole number"),
        ("f 1 2 /3", "`` is not a whole number"),
        ("f 1 2 3.0", "`3.0` is not a whole number"),
    ] {
        assert_refused("a.obj", format!("{TRIANGLE}{face}\n"), reason);
    }
    assert_refused(
        "a.off",
        "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 3\n",
        "line 6: a face refers to vertex 3",
    );
    assert_refused(
        "a.off",
        "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 -1\n",
        "line 6: a face refers to vertex -1",
    );
    let header = ply_header("ascii", 3, 1);
    for (face, reason) in [
        ("3 0 1 3", "line 13: a face refers to vertex 3"),
        ("3 0 1 -1", "line 13: a face refers to vertex -1"),
        ("3 0 1 1.5", "line 13: a face refers to vertex 1.5"),
        ("3 0 1 1e300", "vertex 1000"),
        ("3 0 1 nan", "vertex NaN"),
        ("-3 0 1 2", "a list has -3 entries"),
        ("nan 0 1 2", "a list has NaN entries"),
        ("9 0 1 2", "fewer values than the header says"),
        ("3 0 1 2 7", "`7` is after the last property"),
    ] {
        assert_refused(
            "a.ply",
            format!("{header}0 0 0\n1 0 0\n0 1 0\n{face}\n"),
            reason,
        );
    }
}

fn ply_header(format: &str, vertices: u64, faces: u64) -> String {
    format!(
        "ply\nformat {format} 1.0\nelement vertex {vertices}\nproperty float x\nproperty float y\n\
         property float z\nelement face {faces}\nproperty list uchar int vertex_indices\nend_header\n"
    )
}

fn binary_ply(vertices: u64, faces: u64, list: &[u8]) -> Vec<u8> {
    let mut bytes = ply_header("binary_little_endian", vertices, faces).into_bytes();
    for x in [0_f32, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0] {
        bytes.extend(x.to_le_bytes());
    }
    bytes.extend(list);
    bytes
}

#[test]
fn counts_in_headers_are_not_believed() {
    let huge = u64::MAX;
    for count in [1 << 20, 1 << 40, huge] {
        let text = ply_header("ascii", count, 0) + "0 0 0\n";
        assert_refused("a.ply", text, "but the file ends after 1");
        let text = ply_header("ascii", 1, count) + "0 0 0\n";
        assert_refused("a.ply", text, "but the file ends after 0");
        assert_refused(
            "a.ply",
            binary_ply(count, 0, b""),
            "36 bytes are left from byte",
        );
        assert_refused(
            "a.ply",
            binary_ply(3, count, b"\x00"),
            "1 bytes are left from byte",
        );
        if let Ok(count) = i64::try_from(count) {
            assert_refused(
                "a.off",
                format!("OFF\n{count} 0 0\n0 0 0\n"),
                "but the file ends after 1",
            );
            assert_refused(
                "a.off",
                format!("OFF\n1 {count} 0\n0 0 0\n"),
                "but the file ends after 0",
            );
            let face = format!("OFF\n1 1 0\n0 0 0\n{count} 0 0 0\n");
            assert_refused("a.off", face, "corners has only 3");
            assert_refused(
                "a.pcd",
                pcd("ascii", count as u64, 1, "0 0 0\n"),
                "the file ends after 1",
            );
            assert_refused(
                "a.pcd",
                pcd("binary", count as u64, 1, "012345678901"),
                "there are 12 bytes",
            );
            let shape = npy(
                &format!("'<f4', 'fortran_order': False, 'shape': ({count}, 3)"),
                &[0; 12],
            );
            assert_refused("a.npy", shape, "not what 12 bytes of data hold");
        }
        assert_refused(
            "a.xyz",
            format!("{count}\n1 2 3\n"),
            "points, but there are 1",
        );
        let accessor =
            format!(r#"{{"bufferView":0,"componentType":5126,"count":{count},"type":"VEC3"}}"#);
        assert_refused("a.gltf", gltf(&accessor, POSITION), "");
        // Without a buffer, all is zero.
        let accessor = format!(r#"{{"componentType":5126,"count":{count},"type":"VEC3"}}"#);
        assert_refused("a.gltf", gltf(&accessor, POSITION), "");
    }
    assert_refused(
        "a.off",
        format!("OFF\n{huge} 0 0\n"),
        "is not a whole number",
    );
    assert_refused("a.off", "OFF\n-1 0 0\n", "`-1` is no number of vertices");
    assert_refused(
        "a.ply",
        "ply\nformat ascii 1.0\nelement vertex 99999999999999999999\n",
        "end_header",
    );
    // Elements without properties are nothing, however many there are.
    for format in ["ascii", "binary_big_endian"] {
        let text = format!(
            "ply\nformat {format} 1.0\nelement none {huge}\nelement vertex 0\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
        );
        assert_refused("a.ply", text, "no vertices");
    }
    let mut stl = vec![b'a'; 80];
    stl.extend(u32::MAX.to_le_bytes());
    stl.extend([0; 50]);
    assert_refused("a.stl", stl, "the header says 4294967295 triangle(s)");
}

#[test]
fn content_that_takes_more_than_a_file_may_claim() {
    // A polygon whose corners are two bytes each makes triangles of twelve.
    let corners = "1 2 3 ".repeat(4_000_000);
    let text = format!("{TRIANGLE}f {corners}\n");
    assert_refused(
        "a.obj",
        text,
        "more memory than a file of this size may claim",
    );
    let corners = "1 2 3 ".repeat(1_000_000);
    assert_eq!(
        assert_read("a.obj", format!("{TRIANGLE}f {corners}\n"))
            .triangles()
            .len(),
        2_999_998
    );
    // Large files that are all content, at their densest.
    let text = format!("{}f 1 2 3\n", "v 0 1 0\nv 1 0 0\nv 0 0 0\n".repeat(400_000));
    assert_eq!(assert_read("a.obj", text).vertices().len(), 1_200_000);
    let mut stl = vec![0; 80];
    let count = 1_000_000_u32;
    stl.extend(count.to_le_bytes());
    for i in 0..count {
        stl.extend([0; 12]);
        for x in [i, 0, 0, 0, i + 1, 0, 0, 0, i + 2] {
            stl.extend((x as f32).to_le_bytes());
        }
        stl.extend([0; 2]);
    }
    assert_eq!(assert_read("a.stl", stl).triangles().len(), count as usize);
    // A scene that repeats a mesh.
    let nodes = vec![r#"{"mesh":0}"#; 20_000].join(",");
    let json = format!(
        r#"{{"asset":{{"version":"2.0"}},"nodes":[{nodes}],"meshes":[{{"primitives":[{{"attributes":{{"POSITION":0}}}}]}}],
           "accessors":[{{"componentType":5126,"count":30000,"type":"VEC3"}}]}}"#
    );
    assert_refused(
        "a.gltf",
        json,
        "more memory than a file of this size may claim",
    );
    let primitives = vec!["{\"attributes\":{}}"; 20_000].join(",");
    let json = format!(
        r#"{{"asset":{{"version":"2.0"}},"nodes":[{nodes}],"meshes":[{{"primitives":[{primitives}]}}]}}"#
    );
    assert_refused("a.gltf", json, "repeat more primitives");
    // Values that take more than their text.
    for list in [
        "nodes",
        "meshes",
        "accessors",
        "buffers",
        "bufferViews",
        "scenes",
    ] {
        let json = format!(
            r#"{{"asset":{{"version":"2.0"}},"{list}":[{}{{}}]}}"#,
            "{},".repeat(1 << 20)
        );
        assert_refused(
            "a.gltf",
            json,
            "describe more than a file of this size may claim",
        );
    }
    let json = format!(
        r#"{{"asset":{{"version":"2.0"}},"nodes":[{}{{}}]}}"#,
        r#"{"children":[]},"#.repeat(1 << 16)
    );
    assert_refused("a.gltf", json, "no vertices");
    let header: String = (0..60_000)
        .map(|i| format!("property char a{i}\n"))
        .collect();
    let text = format!("ply\nformat ascii 1.0\nelement vertex 1\n{header}end_header\n");
    assert!(read("a.ply", text.as_bytes()).is_err());
    let fields = "f ".repeat(30_000);
    assert!(read("a.pcd", format!("FIELDS {fields}\nDATA ascii\n").as_bytes()).is_err());
}

#[test]
fn files_that_are_cut_off_anywhere() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/meshes");
    for name in [
        "knot.ply",
        "knot.big.ply",
        "knot.stl",
        "knot.glb",
        "knot.ascii.ply",
        "knot.off",
        "cloud.npy",
        "cloud.binary.pcd",
        "cloud.compressed.pcd",
        "cloud.pcd",
    ] {
        let whole = std::fs::read(fixtures.join(name)).unwrap();
        assert_read(name, &whole);
        // The last line of text may lack digits and still be one.
        let shortest = if name.contains("ascii") || name.ends_with("off") || name == "cloud.pcd" {
            40
        } else {
            1
        };
        for end in (0..whole.len() - shortest)
            .step_by(whole.len() / 300 + 1)
            .chain([whole.len() - shortest])
        {
            assert!(read(name, &whole[..end]).is_err(), "{name} of {end} bytes");
        }
    }
    // Text without counts is read as far as it goes, but not within a triangle.
    let text = std::fs::read(fixtures.join("knot.ascii.stl")).unwrap();
    let middle = text
        .windows(7)
        .rposition(|part| part == b"endloop")
        .unwrap();
    assert_refused("a.stl", &text[..middle], "ends within a triangle");
}

#[test]
fn bytes_that_are_changed_anywhere() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/meshes");
    for name in [
        "knot.ply",
        "knot.stl",
        "knot.glb",
        "knot.gltf",
        "cloud.npy",
        "cloud.compressed.pcd",
        "knot.off",
    ] {
        let whole = std::fs::read(fixtures.join(name)).unwrap();
        for at in (0..whole.len().min(1200)).step_by(7) {
            for value in [0, 0x7f, 0xff, whole[at].wrapping_add(1)] {
                let mut bent = whole.clone();
                bent[at] = value;
                // Refused or not: nothing panics, and nothing is allocated that is not there.
                let _ = read(name, &bent);
            }
        }
    }
}

#[test]
fn formats_under_another_name() {
    let ply = ply_header("ascii", 0, 0);
    for name in [
        "a.obj", "a.off", "a.stl", "a.glb", "a.pcd", "a.npy", "a.xyz",
    ] {
        assert_refused(name, &ply, "but its content is PLY; rename it");
    }
    assert_refused("a.ply", "OFF\n0 0 0\n", "but its content is OFF");
    assert_refused("a.obj", "glTF\x02\0\0\0", "but its content is glTF");
    assert_refused(
        "a.xyz",
        b"\x93NUMPY\x01\0",
        "but its content is an array of NumPy",
    );
    assert_refused("a.xyz", "# .PCD v0.7\n", "but its content is PCD");
    assert_refused("a.ply", "plot\n", "does not begin with a line `ply`");
    assert_refused("a.npy", "PK\x03\x04", "not a .npy file");
    assert_refused("a.obj", b"\x7fELF\0\0\0", "is not text");
    assert_refused("a.stl", vec![7; 200], "damaged or no STL file");
    assert_refused("a.gltf", "solid", "is not the JSON of glTF");
    let error = Mesh::open("a.fbx").unwrap_err().to_string();
    assert!(
        error.contains("no extension of a mesh") && error.contains("glb"),
        "{error}"
    );
    let error = Mesh::open("/nonexistent-fin/a.ply").unwrap_err();
    assert!(matches!(error, Error::Io { action: "read", .. }), "{error}");
}

#[test]
fn marks_and_ends_of_lines() {
    let off = "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n";
    let ply = ply_header("ascii", 3, 1) + "0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n";
    let stl = "solid\nouter loop\nvertex 0 0 0\nvertex 1 0 0\nvertex 0 1 0\nendloop\nendsolid\n";
    for (name, text) in [("a.off", off), ("a.ply", &ply), ("a.stl", stl)] {
        for ends in ["\n", "\r\n", "\r", "\n\r\n", "\n \t\n"] {
            assert_eq!(
                assert_read(name, text.replace('\n', ends)).triangles(),
                [[0, 1, 2]],
                "{ends:?}"
            );
        }
        let mixed: String = text
            .lines()
            .enumerate()
            .map(|(i, line)| line.to_owned() + ["\n", "\r\n", "\r"][i % 3])
            .collect();
        assert_read(name, mixed);
        assert_read(name, format!("\u{feff}{text}"));
        let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let error = read(name, &[b"\xff\xfe", &utf16[..]].concat()).unwrap_err();
        assert!(
            error.contains(if name == "a.ply" { "ply" } else { "UTF-16" }),
            "{error}"
        );
    }
    // Another byte order's header ends where the line feed after it does.
    assert_read(
        "a.ply",
        binary_ply(3, 1, b"\x03\0\0\0\0\x01\0\0\0\x02\0\0\0"),
    );
}

#[test]
fn headers_of_ply_that_contradict_themselves() {
    let xyz = "property float x\nproperty float y\nproperty float z\n";
    for (header, reason) in [
        (
            "ply\nformat ascii 1.0\nformat binary_little_endian 1.0\nend_header\n",
            "line 3: `format binary",
        ),
        (
            "ply\nformat ascii 1.0\nelement vertex 1\nelement vertex 1\nend_header\n",
            "twice",
        ),
        (
            "ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty int x\nend_header\n",
            "twice",
        ),
        (
            "ply\nformat ascii 1.0\nproperty float x\nend_header\n",
            "line 3",
        ),
        (
            "ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n",
            "no x, y and z; their properties are: x",
        ),
        (
            "ply\nformat ascii 1.0\nelement vertex 1\nproperty quad x\nend_header\n",
            "`property quad x` has no place",
        ),
        (
            "ply\nformat ascii 1.0\nelement vertex one\nend_header\n",
            "line 3",
        ),
        ("ply\nformat ascii 99999.0\nend_header\n", "not one of PLY"),
        ("ply\nelement vertex 1\nend_header\n", "not one of PLY"),
        (
            "ply\nformat utf8 1.0\nend_header\n",
            "line 2: `format utf8 1.0` has no place",
        ),
        (
            "ply\nformat ascii 1.0\nelement vertex 1\nproperty list int float x\nproperty float y\nproperty float z\nend_header\n",
            "is a list",
        ),
    ] {
        assert_refused("a.ply", header, reason);
    }
    let face = format!(
        "ply\nformat ascii 1.0\nelement vertex 1\n{xyz}element face 1\nproperty int vertex_indices\nend_header\n"
    );
    assert_refused("a.ply", face, "has no list `vertex_indices`");
    // Comments are anything, and some writers forget to say that they are.
    let text = format!(
        "ply\nformat ascii 1.0\ncomment \u{fffd}\u{1}\nMade by hand\nobj_info a\nelement vertex 1\n{xyz}end_header\n1 2 3\n"
    );
    assert_eq!(assert_read("a.ply", text).vertices(), [[1.0, 2.0, 3.0]]);
    let long = format!("ply\ncomment {}\nend_header\n", "a".repeat(2 << 20));
    assert_refused("a.ply", long, "no line `end_header`");
}

#[test]
fn lists_of_ply_that_are_longer_than_the_file() {
    assert_refused(
        "a.ply",
        binary_ply(3, 1, b"\xff\0\0\0\0"),
        "ends within an element, at byte",
    );
    let text = ply_header("binary_little_endian", 3, 1).replace("uchar int", "int int");
    let mut bytes = text.into_bytes();
    bytes.extend([0; 36]);
    for count in [i32::MAX, i32::MIN, -1] {
        let bytes = [&bytes[..], &count.to_le_bytes()].concat();
        assert_refused(
            "a.ply",
            bytes,
            if count > 0 { "ends within" } else { "entries" },
        );
    }
}

#[test]
fn loops_of_stl() {
    for (text, reason) in [
        (
            "solid\nouter loop\nvertex 0 0 0\nvertex 1 0 0\nendloop\n",
            "line 5: a loop of 2 vertices",
        ),
        (
            "solid\nvertex 0 0 0\n",
            "line 2: a vertex outside of `outer loop`",
        ),
        (
            "solid\nouter loop\nouter loop\n",
            "line 3: a loop begins within a loop",
        ),
        ("solid\nendloop\n", "line 2: `endloop` without"),
        (
            "solid\nouter loop\nvertex 0 0\n",
            "line 3: a vertex has 2 number(s)",
        ),
        (
            "solid\nouter loop\nvertex 0 0 1,5\n",
            "`1,5` is not a number",
        ),
        (
            "solid\nouter loop\nvertex 0 0 0\n",
            "ends within a triangle",
        ),
        (
            "solid\nouter loop\nvertex 0 0 0\nvertex nan 0 0\nvertex 0 1 0\nendloop\n",
            "vertex 1 (counted from 0)",
        ),
    ] {
        assert_refused("a.stl", text, reason);
    }
}

#[test]
fn off_that_is_not_read() {
    assert_refused("a.off", "OFF BINARY\n", "binary OFF");
    assert_refused("a.off", "4OFF\n1 0 0\n0 0 0 0\n", "another dimension");
    assert_refused("a.off", "nOFF\n3\n1 0 0\n0 0 0\n", "another dimension");
    assert_refused("a.off", "OFF\n3\n", "line 2: has no number of faces");
    assert_refused(
        "a.off",
        "OFF\n1 0 0\n0 0\n",
        "line 3: a vertex has 2 number(s)",
    );
    assert_refused(
        "a.off",
        "NOFF\n1 0 0\n0 0 0 1\n",
        "line 3: a normal has 1 number(s)",
    );
}

const POSITION: &str = r#"{"attributes":{"POSITION":0}}"#;

/// A scene of one primitive, with a buffer of 36 bytes: three zeros, and others.
fn gltf(accessors: &str, primitive: &str) -> String {
    gltf_with(accessors, primitive, r#"{"buffer":0,"byteLength":36}"#)
}

fn gltf_with(accessors: &str, primitive: &str, views: &str) -> String {
    format!(
        r#"{{"asset":{{"version":"2.0"}},"buffers":[{{"byteLength":36,"uri":"data:;base64,AAAAAAAAAAAAAAAAAACAPwAAAAAAAAAAAAAAAAAAgD8AAAAA"}}],
           "bufferViews":[{views}],"accessors":[{accessors}],"meshes":[{{"primitives":[{primitive}]}}]}}"#
    )
}

const THREE: &str = r#"{"bufferView":0,"componentType":5126,"count":3,"type":"VEC3"}"#;

#[test]
fn accessors_beyond_their_buffers() {
    assert_eq!(
        assert_read("a.gltf", gltf(THREE, POSITION))
            .triangles()
            .len(),
        1
    );
    for (change, reason) in [
        (
            r#""count":4"#,
            "4 elements of 12 bytes, 12 apart from byte 0, are not in buffer view 0 of 36",
        ),
        (r#""count":3,"byteOffset":1"#, "are not in buffer view 0"),
        (
            r#""count":3,"byteOffset":18446744073709551615"#,
            "are not in buffer view 0",
        ),
        (r#""count":18446744073709551615"#, "more memory"),
        (r#""count":-1"#, "is not the JSON"),
        (r#""count":0"#, "has no elements"),
        (
            r#""count":2"#,
            "2 corners make no whole number of triangles",
        ),
    ] {
        assert_refused(
            "a.gltf",
            gltf(&THREE.replace(r#""count":3"#, change), POSITION),
            reason,
        );
    }
    for (view, reason) in [
        (
            r#"{"buffer":1,"byteLength":36}"#,
            "refers to buffer 1, but there are 1",
        ),
        (r#"{"buffer":0,"byteLength":37}"#, "but buffer 0 has 36"),
        (
            r#"{"buffer":0,"byteOffset":1,"byteLength":36}"#,
            "but buffer 0 has 36",
        ),
        (
            r#"{"buffer":0,"byteOffset":18446744073709551615,"byteLength":36}"#,
            "but buffer 0 has 36",
        ),
        (
            r#"{"buffer":0,"byteLength":18446744073709551615}"#,
            "but buffer 0 has 36",
        ),
        (r#"{"buffer":0,"byteLength":36,"byteStride":4}"#, "4 apart"),
        (
            r#"{"buffer":0,"byteLength":36,"byteStride":18446744073709551615}"#,
            "are not in",
        ),
        (
            r#"{"buffer":0,"byteLength":36,"extensions":{"EXT_meshopt_compression":{}}}"#,
            "EXT_meshopt_compression",
        ),
    ] {
        assert_refused("a.gltf", gltf_with(THREE, POSITION, view), reason);
    }
    for (from, to, reason) in [
        ("5126", "5130", "component type 5130"),
        ("VEC3", "VEC2", "POSITION is of type VEC2"),
        (
            "bufferView\":0",
            "bufferView\":1",
            "refers to buffer view 1",
        ),
    ] {
        assert_refused("a.gltf", gltf(&THREE.replace(from, to), POSITION), reason);
    }
    let indexed = |index: &str| {
        gltf(
            &format!("{THREE},{index}"),
            r#"{"attributes":{"POSITION":0},"indices":1}"#,
        )
    };
    for (index, reason) in [
        (
            r#"{"bufferView":0,"byteOffset":15,"componentType":5121,"count":3,"type":"SCALAR"}"#,
            "refers to vertex 63 (counted from 0) of 3",
        ),
        (
            r#"{"bufferView":0,"componentType":5126,"count":3,"type":"SCALAR"}"#,
            "not of an unsigned type",
        ),
        (
            r#"{"bufferView":0,"componentType":5121,"count":3,"type":"VEC3"}"#,
            "of type VEC3 where SCALAR is needed",
        ),
        (
            r#"{"bufferView":0,"componentType":5121,"count":4,"type":"SCALAR"}"#,
            "4 corners make no whole",
        ),
        (
            r#"{"bufferView":0,"componentType":5121,"count":3,"type":"SCALAR"}"#,
            "has an area",
        ),
        (
            r#"{"componentType":5121,"count":9223372036854775807,"type":"SCALAR"}"#,
            "more memory",
        ),
    ] {
        assert_refused("a.gltf", indexed(index), reason);
    }
    assert_refused(
        "a.gltf",
        gltf(THREE, r#"{"attributes":{"POSITION":1}}"#),
        "refers to accessor 1",
    );
    assert_refused(
        "a.gltf",
        gltf(THREE, r#"{"attributes":{"POSITION":0},"indices":9}"#),
        "refers to accessor 9",
    );
    assert_refused(
        "a.gltf",
        gltf(THREE, r#"{"attributes":{"POSITION":0},"mode":7}"#),
        "has the mode 7",
    );
    assert_refused("a.gltf", gltf(THREE, r#"{"attributes":{}}"#), "no vertices");
}

#[test]
fn sparse_accessors_out_of_order() {
    // Bytes 0 to 2 are zeros, 14 and 15 are 0x80 and 0x3f.
    let sparse = |count: u64, at: u64| {
        format!(
            r#"{{"bufferView":0,"componentType":5126,"count":3,"type":"VEC3","sparse":{{"count":{count},
               "indices":{{"bufferView":0,"byteOffset":{at},"componentType":5121}},"values":{{"bufferView":0}}}}}}"#
        )
    };
    for (count, at, reason) in [
        (2, 0, "do not increase"),
        (1, 15, "out of range"),
        (4, 0, "a sparse accessor of 3 elements replaces 4"),
        (3, 34, "are not in buffer view 0"),
        (u64::MAX, 0, "replaces 18446744073709551615"),
    ] {
        assert_refused("a.gltf", gltf(&sparse(count, at), POSITION), reason);
    }
    assert_read("a.gltf", gltf(&sparse(1, 0), POSITION));
}

#[test]
fn nodes_that_make_no_tree() {
    let scene = |nodes: &str, roots: &str| {
        let json = gltf(THREE, POSITION);
        json.replacen(
            '{',
            &format!(r#"{{"scenes":[{{"nodes":[{roots}]}}],"nodes":[{nodes}],"#),
            1,
        )
    };
    assert_read("a.gltf", scene(r#"{"mesh":0}"#, "0"));
    for (nodes, roots, reason) in [
        (r#"{"children":[0]}"#, "0", "node 0 is its own ancestor"),
        (
            r#"{"children":[1]},{"children":[0]}"#,
            "0",
            "node 0 is its own ancestor",
        ),
        (
            r#"{"children":[1,1]},{"mesh":0}"#,
            "0",
            "node 1 is its own ancestor or has two parents",
        ),
        (r#"{"mesh":0}"#, "0,0", "node 0"),
        (
            r#"{"children":[7]}"#,
            "0",
            "refers to node 7, but there are 1",
        ),
        (r#"{"mesh":0}"#, "1", "refers to node 1"),
        (r#"{"mesh":3}"#, "0", "refers to mesh 3"),
        (r#"{"mesh":0,"scale":[0,0,0]}"#, "0", "has an area"),
        (
            r#"{"mesh":0,"scale":[1e300,1e300,1e300]}"#,
            "0",
            "which is no place",
        ),
        (r#"{"mesh":0,"scale":[1e999,1,1]}"#, "0", "not the JSON"),
        (r#"{"mesh":0,"scale":[1,1]}"#, "0", "not the JSON"),
        (r#"{"mesh":0,"matrix":[1,0,0,0]}"#, "0", "not the JSON"),
    ] {
        assert_refused("a.gltf", scene(nodes, roots), reason);
    }
    let chain: Vec<String> = (1..=5000)
        .map(|i| format!(r#"{{"children":[{i}]}}"#))
        .collect();
    assert_refused(
        "a.gltf",
        scene(&(chain.join(",") + r#",{"mesh":0}"#), "0"),
        "nested more than 1000 deep",
    );
    assert_refused(
        "a.gltf",
        gltf(THREE, POSITION).replacen('{', r#"{"scene":1,"nodes":[{}],"#, 1),
        "refers to scene 1",
    );
    let deep = format!("{{\"extras\":{}", "[".repeat(100_000));
    assert_refused("a.gltf", deep, "");
}

#[test]
fn buffers_that_are_elsewhere() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("inner").join("a.gltf");
    std::fs::create_dir(directory.path().join("inner")).unwrap();
    std::fs::write(directory.path().join("secret"), [0; 36]).unwrap();
    std::fs::write(directory.path().join("inner/short.bin"), [0; 35]).unwrap();
    let mut triangle = vec![0; 36];
    triangle[14..16].copy_from_slice(&[0x80, 0x3f]);
    triangle[30..32].copy_from_slice(&[0x80, 0x3f]);
    std::fs::write(directory.path().join("inner/a b.bin"), triangle).unwrap();
    let read = |uri: &str| {
        let json = gltf(THREE, POSITION);
        let start = json.find("data:").unwrap();
        let end = start + json[start..].find('"').unwrap();
        let json = format!("{}{uri}{}", &json[..start], &json[end..]);
        Mesh::read(MeshFormat::Gltf, json.as_bytes(), &path).map_err(|error| error.to_string())
    };
    assert_eq!(read("a%20b.bin").unwrap().triangles().len(), 1);
    assert_eq!(read("./a b.bin").unwrap().triangles().len(), 1);
    for (uri, reason) in [
        ("../secret", "not a file below the directory"),
        ("%2e%2e/secret", "not a file below the directory"),
        ("/etc/passwd", "not a file below the directory"),
        ("http://example.org/a.bin", "not a file below the directory"),
        ("a%00b.bin", "not a file below the directory"),
        ("..\\\\secret", "not a file below the directory"),
        ("", "not a file below the directory"),
        ("a%2", "can be decoded"),
        ("a%zz", "can be decoded"),
        ("short.bin", "has 35 bytes, but"),
        (".", "bytes"),
        ("absent.bin", "absent.bin: cannot read"),
        ("data:;base64,AAAA", "buffer 0 says 36 bytes, but has 3"),
        ("data:;base64,A*", "not valid base64"),
        ("data:text/plain,AAAA", "not in base64"),
        ("data:", "without content"),
    ] {
        let error = read(uri).unwrap_err();
        assert!(error.contains(reason), "{uri}: {error}");
    }
}

#[test]
fn chunks_of_glb_that_lie() {
    let json = br#"{"asset":{"version":"2.0"},"buffers":[{"byteLength":36}],"bufferViews":[{"buffer":0,"byteLength":36}],"accessors":[{"bufferView":0,"componentType":5126,"count":3,"type":"VEC3"}],"meshes":[{"primitives":[{"attributes":{"POSITION":0}}]}]} "#;
    let glb = |version: u32,
               length: Option<u32>,
               json_length: Option<u32>,
               kind: &[u8],
               binary: Option<(u32, usize)>| {
        let mut chunks = json_length
            .unwrap_or(json.len() as u32)
            .to_le_bytes()
            .to_vec();
        chunks.extend(kind);
        chunks.extend(json);
        if let Some((length, bytes)) = binary {
            chunks.extend(length.to_le_bytes());
            chunks.extend(b"BIN\0");
            let floats = [0_f32, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0];
            let content: Vec<u8> = floats.iter().flat_map(|x| x.to_le_bytes()).collect();
            chunks.extend(&content[..bytes]);
        }
        let mut file = b"glTF".to_vec();
        file.extend(version.to_le_bytes());
        file.extend(length.unwrap_or(12 + chunks.len() as u32).to_le_bytes());
        file.extend(chunks);
        file
    };
    let whole = Some((36, 36));
    assert_read("a.glb", glb(2, None, None, b"JSON", whole));
    for (file, reason) in [
        (glb(1, None, None, b"JSON", whole), "version 1 of GLB"),
        (
            glb(2, Some(u32::MAX), None, b"JSON", whole),
            "it is cut off",
        ),
        (
            glb(2, None, Some(u32::MAX), b"JSON", whole),
            "the chunk at byte 12 says 4294967295 bytes",
        ),
        (glb(2, None, Some(0), b"JSON", whole), ""),
        (glb(2, None, None, b"XXXX", whole), "not of type JSON"),
        (
            glb(2, None, None, b"JSON", Some((u32::MAX, 36))),
            "says 4294967295 bytes, but the file ends before",
        ),
        (
            glb(2, None, None, b"JSON", Some((35, 35))),
            "but buffer 0 has 35",
        ),
        (glb(2, None, None, b"JSON", None), "but buffer 0 has 0"),
        (glb(2, Some(0), None, b"JSON", whole), "but buffer 0 has 0"),
    ] {
        assert_refused("a.glb", file, reason);
    }
    let draco = gltf(
        r#"{"componentType":5126,"count":3,"type":"VEC3"}"#,
        r#"{"attributes":{"POSITION":0},"extensions":{"KHR_draco_mesh_compression":{"bufferView":0}}}"#,
    );
    assert_refused("a.gltf", &draco, "KHR_draco_mesh_compression");
    let required = draco.replacen('{', r#"{"extensionsRequired":["XYZ_folding"],"#, 1);
    assert_refused("a.gltf", required, "needs the extension XYZ_folding");
    assert_refused(
        "a.gltf",
        r#"{"asset":{"version":"1.0"},"meshes":{}}"#,
        "version 1.0 of glTF",
    );
}

fn pcd(data: &str, width: u64, height: u64, content: &str) -> String {
    format!(
        "VERSION .7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH {width}\nHEIGHT {height}\nDATA {data}\n{content}"
    )
}

#[test]
fn headers_of_pcd() {
    let good = pcd("ascii", 2, 1, "0 0 0\n1 nan 1\n");
    assert_eq!(assert_read("a.pcd", &good).vertices(), [[0.0; 3]]);
    for (from, to, reason) in [
        (
            "WIDTH 2\nHEIGHT 1",
            "WIDTH 4294967296\nHEIGHT 4294967296",
            "is no number of points",
        ),
        (
            "HEIGHT 1",
            "HEIGHT 1\nPOINTS 3",
            "3 POINTS, but WIDTH times HEIGHT is 2",
        ),
        ("WIDTH 2\nHEIGHT 1\n", "", "neither POINTS nor WIDTH"),
        ("WIDTH 2", "WIDTH -2", "`-2` is no count"),
        ("WIDTH 2", "WIDTH", "`` is not a whole number"),
        ("FIELDS x y z", "FIELDS x y", "2 FIELDS, 3 SIZEs"),
        (
            "FIELDS x y z",
            "FIELDS x y w",
            "no fields x, y and z, but x, y, w",
        ),
        ("SIZE 4 4 4", "SIZE 4 4 3", "field `z` has the size `3`"),
        ("SIZE 4 4 4", "SIZE 4 4 2", "type F and size 2"),
        ("TYPE F F F", "TYPE F F X", "the type `X`"),
        ("COUNT 1 1 1", "COUNT 1 1 2", "no fields x, y and z"),
        (
            "COUNT 1 1 1",
            "COUNT 1 1 18446744073709551615",
            "18446744073709551615 values a point",
        ),
        ("COUNT 1 1 1", "COUNT 1 1 1073741824", "values a point"),
        ("DATA ascii", "DATA binary_lz4", "DATA is `binary_lz4`"),
        ("VERSION", "VISION", "line 1: `VISION` has no place"),
        (
            "0 0 0\n",
            "0 0\n",
            "line 9: 2 values where the fields take 3",
        ),
        ("0 0 0\n", "0 0 x\n", "`x` is not a number"),
        ("1 nan 1\n", "", "the file ends after 1"),
        ("1 nan 1\n", "1 1 1\n2 2 2\n", "after the last of 2 points"),
    ] {
        assert!(good.contains(from));
        assert_refused("a.pcd", good.replace(from, to), reason);
    }
}

#[test]
fn sizes_of_lzf_that_lie() {
    let compressed = |width: u64, packed: u32, unpacked: u32, content: &[u8]| {
        let mut bytes = pcd("binary_compressed", width, 1, "").into_bytes();
        bytes.extend(packed.to_le_bytes());
        bytes.extend(unpacked.to_le_bytes());
        bytes.extend(content);
        bytes
    };
    // A zero, and copies of it.
    let zeros = |copies: usize| [&b"\x00\0"[..], &b"\xe0\xff\x00".repeat(copies)].concat();
    let packed = zeros(1);
    let size = packed.len() as u32;
    assert_refused("a.pcd", compressed(22, size, 264, &packed), "damaged");
    let whole = [&b"\x01\0\0"[..], b"\xe0\xfd\x00"].concat();
    assert_eq!(
        assert_read("a.pcd", compressed(22, 6, 264, &whole))
            .vertices()
            .len(),
        22
    );
    for (file, reason) in [
        (
            compressed(22, 7, 264, &whole),
            "7 bytes compressed, but 6 follow",
        ),
        (
            compressed(22, u32::MAX, 264, &whole),
            "bytes compressed, but 6 follow",
        ),
        (
            compressed(23, 6, 264, &whole),
            "23 points of 12 bytes, but there are 264",
        ),
        (compressed(22, 6, u32::MAX, &whole), "more than is read"),
        (
            compressed(i64::MAX as u64, 6, u32::MAX, &whole),
            "points of 12 bytes",
        ),
        (compressed(22, 6, 265, &whole), "damaged"),
        (compressed(22, 5, 264, &whole), "damaged"),
        (compressed(1, 2, 12, b"\x20\x00"), "damaged"),
        (compressed(1, 0, 12, b""), "more than is read"),
        (
            pcd("binary_compressed", 1, 1, "abc").into_bytes(),
            "ends before its compressed points",
        ),
    ] {
        assert_refused("a.pcd", file, reason);
    }
    // As much as the format can unfold to, which is more than is read of a large file.
    let packed = zeros(400_000);
    let unpacked = 1 + 264 * 400_000;
    let file = compressed(unpacked / 12, packed.len() as u32, unpacked as u32, &packed);
    assert_refused(
        "a.pcd",
        file,
        "more than is read; save it without compression",
    );
}

fn npy(dictionary: &str, data: &[u8]) -> Vec<u8> {
    let dictionary = format!("{{'descr': {dictionary}, }}\n");
    let mut bytes = b"\x93NUMPY\x01\0".to_vec();
    bytes.extend((dictionary.len() as u16).to_le_bytes());
    bytes.extend(dictionary.bytes());
    bytes.extend(data);
    bytes
}

#[test]
fn arrays_that_are_no_clouds() {
    assert_read(
        "a.npy",
        npy("'<f4', 'fortran_order': False, 'shape': (1, 3)", &[0; 12]),
    );
    assert_read(
        "a.npy",
        npy("'>f8', 'fortran_order': False, 'shape': (1, 6)", &[0; 48]),
    );
    for (dictionary, reason) in [
        (
            "'<f4', 'fortran_order': True, 'shape': (1, 3)",
            "in Fortran order; save it in C order",
        ),
        (
            "'|O', 'fortran_order': False, 'shape': (1, 3)",
            "elements of type `|O`",
        ),
        (
            "'<i4', 'fortran_order': False, 'shape': (1, 3)",
            "save the array as float32",
        ),
        (
            "'<f2', 'fortran_order': False, 'shape': (2, 3)",
            "elements of type `<f2`",
        ),
        (
            "'<f4', 'fortran_order': False, 'shape': (3,)",
            "is of shape [3]; a point cloud is of [n, 3]",
        ),
        (
            "'<f4', 'fortran_order': False, 'shape': (1, 1, 3)",
            "is of shape [1, 1, 3]",
        ),
        (
            "'<f4', 'fortran_order': False, 'shape': (3, 1)",
            "is of shape [3, 1]",
        ),
        (
            "'<f4', 'fortran_order': False, 'shape': (2, 3)",
            "2 rows of 3 elements of 4 bytes",
        ),
        (
            "'<f4', 'fortran_order': False, 'shape': (18446744073709551615, 3)",
            "not what 12 bytes",
        ),
        (
            "'<f4', 'fortran_order': False, 'shape': (0, 3)",
            "not what 12 bytes",
        ),
        (
            "[('x', '<f4')], 'fortran_order': False, 'shape': (1,)",
            "not in NumPy's form",
        ),
    ] {
        assert_refused("a.npy", npy(dictionary, &[0; 12]), reason);
    }
    assert_refused(
        "a.npy",
        npy("'<f4', 'fortran_order': False, 'shape': (0, 3)", b""),
        "no vertices",
    );
}

#[test]
fn rows_that_are_no_points() {
    for (text, reason) in [
        ("1 2\n", "line 1: 2 column(s)"),
        (
            "1 2 3\n4 5\n",
            "line 2: 2 column(s), as in `4 5`, where 3 are expected",
        ),
        ("1 2 3\n4 5 6 7\n", "line 2: 4 column(s)"),
        ("1 2 3\nx y z\n", "line 2: `x` is not a number"),
        ("1 2 z\n", "line 1: `z` is not a number"),
        ("0,5 1,5 2,5\n0,5 1,5\n", "line 2"),
        (
            "3\n1 2 3\n",
            "says that there are 3 points, but there are 1",
        ),
        ("-1\n1 2 3\n", "says that there are -1 points"),
        ("\u{0}\u{0}\u{0}", "column(s)"),
    ] {
        assert_refused("a.xyz", text, reason);
    }
}

#[test]
fn meshes_made_in_memory() {
    let triangle = vec![[0.0; 3], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]];
    for (vertices, triangles, reason) in [
        (vec![], vec![], "no vertices"),
        (vec![[0.0, f32::NAN, 0.0]], vec![], "vertex 0 is"),
        (
            triangle.clone(),
            vec![[0, 1, 3]],
            "is a triangle of 3 vertices",
        ),
        (triangle.clone(), vec![[0, 1, 1]], "none with an area"),
    ] {
        let error = Mesh::new(vertices, triangles).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    let cloud = Mesh::new(triangle.clone(), vec![]).unwrap();
    assert!(cloud.clone().with_normals(vec![[0.0; 3]; 2]).is_err());
    let cloud = cloud.with_normals(vec![[0.0, 0.0, 9.0]; 3]).unwrap();
    assert_eq!(cloud.normals().unwrap()[0], [0.0, 0.0, 1.0]);
    let mesh = Mesh::new(triangle, vec![[0, 1, 2]]).unwrap();
    assert!(mesh.with_normals(vec![[0.0; 3]; 3]).is_err());
}
