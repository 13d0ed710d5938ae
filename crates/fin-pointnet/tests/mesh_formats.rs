//! One mesh in every format, as other programs write it, and what is sampled from it.

use std::path::{Path, PathBuf};

use fin_pointnet::mesh::{Mesh, MeshFormat, is_mesh_path, mesh_files, meshes_by_class};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fixtures/meshes")
        .join(name)
}

fn open(name: &str) -> Mesh {
    Mesh::open(fixture(name)).unwrap()
}

fn obj(text: &str) -> Mesh {
    Mesh::read(MeshFormat::Obj, text.as_bytes(), Path::new("a.obj")).unwrap()
}

struct Reference {
    vertices: Vec<[f32; 3]>,
    triangles: Vec<[u32; 3]>,
    area: f64,
}

fn reference() -> Reference {
    let text = std::fs::read(fixture("reference.json")).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
    Reference {
        vertices: serde_json::from_value(json["vertices"].clone()).unwrap(),
        triangles: serde_json::from_value(json["triangles"].clone()).unwrap(),
        area: json["area"].as_f64().unwrap(),
    }
}

fn furthest(a: &[[f32; 3]], b: &[[f32; 3]]) -> f32 {
    assert_eq!(a.len(), b.len());
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    pairs.fold(0.0, |most, (a, b)| (a - b).abs().max(most))
}

fn corners(mesh: &Mesh) -> Vec<[f32; 3]> {
    let indices = mesh.triangles().iter().flatten();
    indices.map(|&i| mesh.vertices()[i as usize]).collect()
}

/// Centred at the mean, and scaled to a radius of one, as networks take points.
fn normalized(points: &[[f32; 3]]) -> Vec<[f32; 3]> {
    let count = points.len() as f64;
    let mean = [0, 1, 2].map(|i| points.iter().map(|p| f64::from(p[i])).sum::<f64>() / count);
    let centred: Vec<[f64; 3]> = (points.iter())
        .map(|p| [0, 1, 2].map(|i| f64::from(p[i]) - mean[i]))
        .collect();
    let length = |p: &[f64; 3]| p.iter().map(|x| x * x).sum::<f64>().sqrt();
    let radius = centred.iter().map(length).fold(0.0, f64::max);
    centred
        .iter()
        .map(|p| p.map(|x| (x / radius) as f32))
        .collect()
}

const KNOTS: [&str; 9] = [
    "knot.ply",
    "knot.ascii.ply",
    "knot.big.ply",
    "knot.obj",
    "knot.off",
    "knot.stl",
    "knot.ascii.stl",
    "knot.glb",
    "knot.gltf",
];

#[test]
fn every_format_gives_the_same_triangles_and_points() {
    let expected = reference();
    let indices = expected.triangles.iter().flatten();
    let expected_corners: Vec<_> = indices.map(|&i| expected.vertices[i as usize]).collect();
    let points = open("knot.ply").sample(2048, 7);
    for name in KNOTS {
        let mesh = open(name);
        assert_eq!(mesh.triangles().len(), expected.triangles.len(), "{name}");
        assert_eq!(mesh.vertices().len(), expected.vertices.len(), "{name}");
        assert_eq!(mesh.origin(), [0.0; 3]);
        // The text of the STL file has eight digits after the point, all others all of them.
        let differ = furthest(&corners(&mesh), &expected_corners);
        assert!(differ <= 1e-7, "{name}: {differ}");
        let differ = furthest(&mesh.sample(2048, 7), &points);
        assert!(differ < 1e-5, "{name}: {differ}");
        // Vertices that are shared keep their numbers; STL's are numbered as they come.
        if !name.ends_with("stl") {
            assert_eq!(mesh.triangles(), expected.triangles, "{name}");
        }
    }
}

#[test]
fn every_format_of_clouds_gives_the_same_points() {
    let expected = reference();
    let points = open("cloud.npy").sample(512, 3);
    for name in [
        "cloud.npy",
        "cloud.f64.npy",
        "cloud.xyz",
        "cloud.xyzrgb",
        "cloud.pcd",
        "cloud.binary.pcd",
        "cloud.compressed.pcd",
    ] {
        let cloud = open(name);
        assert!(cloud.is_point_cloud());
        assert_eq!(cloud.vertices(), expected.vertices, "{name}");
        assert_eq!(cloud.sample(512, 3), points, "{name}");
        let has_normals = !["cloud.f64.npy", "cloud.xyzrgb"].contains(&name);
        assert_eq!(cloud.normals().is_some(), has_normals, "{name}");
        if let Some(normals) = cloud.normals() {
            for (normal, point) in normals.iter().zip(cloud.vertices()) {
                let length = point.iter().map(|x| x * x).sum::<f32>().sqrt();
                assert!(
                    furthest(&[*normal], &[point.map(|x| x / length)]) < 1e-5,
                    "{name}"
                );
            }
            let oriented = cloud.sample_oriented(512, 3).unwrap();
            assert_eq!(oriented.points, points);
        } else {
            assert!(cloud.sample_oriented(512, 3).is_none());
        }
    }
}

#[test]
fn points_are_spread_by_area() {
    // Three triangles of areas 1, 0 and 3, apart from one another.
    let mesh = obj(
        "v 0 0 0\nv 2 0 0\nv 0 1 0\nv 10 0 0\nv 10 1 0\nv 20 0 0\nv 22 0 0\nv 20 3 0\n\
                    f 1 2 3\nf 4 5 4\nf 6 7 8\n",
    );
    let count = 40_000;
    let points = mesh.sample(count, 1);
    assert!(points.iter().all(|p| p[0] <= 2.0 || p[0] >= 20.0));
    let share = points.iter().filter(|p| p[0] <= 2.0).count() as f64 / count as f64;
    // A standard deviation is 0.0022.
    assert!((share - 0.25).abs() < 0.01, "{share}");
    // In a triangle, evenly: the mean is the centroid, and a corner's quarter has its share.
    let far: Vec<_> = points.iter().filter(|p| p[0] >= 20.0).collect();
    let mean = |i: usize| far.iter().map(|p| f64::from(p[i])).sum::<f64>() / far.len() as f64;
    assert!((mean(0) - 20.0 - 2.0 / 3.0).abs() < 0.02 && (mean(1) - 1.0).abs() < 0.02);
    let corner = far.iter().filter(|p| p[0] >= 21.0).count() as f64 / far.len() as f64;
    assert!((corner - 0.25).abs() < 0.015, "{corner}");
    for p in far {
        assert!(
            p[1] >= 0.0 && p[1] <= 3.0 * (1.0 - (p[0] - 20.0) / 2.0) + 1e-5,
            "{p:?}"
        );
    }
}

#[test]
fn the_sum_of_the_areas_is_the_reference_librarys() {
    let mesh = open("knot.glb");
    let area: f64 = (corners(&mesh).chunks(3))
        .map(|c| {
            let [u, v] = [1, 2].map(|i| [0, 1, 2].map(|k| f64::from(c[i][k] - c[0][k])));
            let n = [
                u[1] * v[2] - u[2] * v[1],
                u[2] * v[0] - u[0] * v[2],
                u[0] * v[1] - u[1] * v[0],
            ];
            n.iter().map(|x| x * x).sum::<f64>().sqrt() / 2.0
        })
        .sum();
    let expected = reference().area;
    assert!((area / expected - 1.0).abs() < 1e-6, "{area} {expected}");
}

#[test]
fn place_and_size_change_nothing_but_the_place_and_the_size() {
    let mesh = open("knot.ply");
    let expected = normalized(&mesh.sample(1024, 5));
    for (scale, shift) in [
        (1000.0, [0.0; 3]),
        (1e-3, [0.0; 3]),
        (1.0, [100.0, -50.0, 7.0]),
    ] {
        let vertices = (mesh.vertices().iter())
            .map(|v| [0, 1, 2].map(|i| (f64::from(v[i]) * scale + shift[i]) as f32))
            .collect();
        let moved = Mesh::new(vertices, mesh.triangles().to_vec()).unwrap();
        let differ = furthest(&normalized(&moved.sample(1024, 5)), &expected);
        assert!(differ < 1e-4, "{scale} {shift:?}: {differ}");
    }
    // Coordinates as of a map, which single precision has no digits for, in text and in binary.
    let shift = [500_000.0, 4_500_000.0, 120.0];
    let moved: Vec<[f64; 3]> = (mesh.vertices().iter())
        .map(|v| [0, 1, 2].map(|i| f64::from(v[i]) + shift[i]))
        .collect();
    let mut text = String::new();
    for [x, y, z] in &moved {
        text += &format!("v {x} {y} {z}\n");
    }
    for [a, b, c] in mesh.triangles() {
        text += &format!("f {} {} {}\n", a + 1, b + 1, c + 1);
    }
    let far = obj(&text);
    assert_ne!(far.origin(), [0.0; 3]);
    let differ = furthest(&normalized(&far.sample(1024, 5)), &expected);
    assert!(differ < 1e-4, "{differ}");
    for (vertex, place) in far.vertices().iter().zip(&moved) {
        for i in 0..3 {
            let back = f64::from(vertex[i]) + far.origin()[i];
            assert!((back - place[i]).abs() < 1e-5);
        }
    }
}

#[test]
fn seeds_decide_and_other_things_do_not() {
    let mesh = open("knot.ply");
    let points = mesh.sample(256, 1);
    assert_eq!(points, mesh.sample(256, 1));
    assert_ne!(points, mesh.sample(256, 2));
    assert_eq!(points, mesh.sample(300, 1)[..256]);
    assert_eq!(points, mesh.sample_oriented(256, 1).unwrap().points);
    // Vertices that are not shared, and triangles without area in between.
    let mut vertices = vec![[9.0, 9.0, 9.0]];
    let mut triangles = Vec::new();
    for corner in corners(&mesh).chunks(3) {
        let first = vertices.len() as u32;
        vertices.extend(corner);
        triangles.push([first, first + 1, first + 2]);
        triangles.push([first, first, first + 1]);
    }
    let soup = Mesh::new(vertices, triangles).unwrap();
    assert_eq!(points, soup.sample(256, 1));
    assert!(mesh.sample(0, 1).is_empty());
}

#[test]
fn normals_are_those_of_the_triangles() {
    let mesh = obj("v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nf 1 2 3 4\n");
    let oriented = mesh.sample_oriented(50, 0).unwrap();
    assert!(oriented.normals.iter().all(|n| *n == [0.0, 0.0, 1.0]));
    // Away from the tube's middle, so that the surface is counterclockwise from outside.
    let knot = open("knot.stl").sample_oriented(500, 0).unwrap();
    for normal in &knot.normals {
        let length = normal.iter().map(|x| x * x).sum::<f32>();
        assert!((length - 1.0).abs() < 1e-5);
    }
    // Normals of sizes at either end of the range.
    for scale in [1e-30_f32, 1e30] {
        let vertices = mesh
            .vertices()
            .iter()
            .map(|v| v.map(|x| x * scale))
            .collect();
        let scaled = Mesh::new(vertices, mesh.triangles().to_vec()).unwrap();
        let oriented = scaled.sample_oriented(50, 0).unwrap();
        assert!(
            oriented.normals.iter().all(|n| *n == [0.0, 0.0, 1.0]),
            "{scale}"
        );
    }
}

#[test]
fn clouds_are_dealt_like_cards() {
    let points: Vec<[f32; 3]> = (0..10).map(|i| [i as f32, 0.0, 0.0]).collect();
    let cloud = Mesh::new(points, vec![]).unwrap();
    let mut drawn: Vec<i32> = cloud.sample(25, 4).iter().map(|p| p[0] as i32).collect();
    assert_eq!(drawn.len(), 25);
    let mut seen = [0; 10];
    for i in &drawn {
        seen[*i as usize] += 1;
    }
    assert!(seen.iter().all(|n| (2..=3).contains(n)), "{seen:?}");
    drawn.truncate(10);
    assert!(!drawn.is_sorted());
    drawn.sort();
    assert_eq!(drawn, (0..10).collect::<Vec<_>>());
}

#[test]
fn statements_of_obj() {
    let square = [[0, 1, 2], [0, 2, 3]];
    for text in [
        "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nf 1/1/1 2/2/1 3//1 4/1\n",
        "v 0 0 0\r\nv 1 0 0\r\nv 1 1 0\r\nv 0 1 0\r\nf -4 -3 -2 -1\r\n",
        "v 0 0 0\rv 1 0 0\rv 1 1 0\rv 0 1 0\rf 1 2 3 4",
        "\u{feff}# a \\\nmtllib a b.mtl\nv 0 0 0 1 0 0\nv 1 0 0 # b\n\nv 1 1 0\nvt 0 0\nvn 0 0 1\n\
         v 0 1 0\ng x\ns off\nusemtl y\nf 1 2 \\\n3 \\\r\n 4\nl 1 2\n",
        // A face before its vertices.
        "f 1 2 3 4\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n",
    ] {
        let mesh = obj(text);
        assert_eq!(mesh.triangles(), square, "{text:?}");
        assert_eq!(mesh.vertices()[2], [1.0, 1.0, 0.0]);
        assert_eq!(mesh.normals(), None);
    }
    let cloud = obj("v 0 0 0\nvn 0 0 2\nv 1 0 0\nvn 0 3 0\n");
    assert!(cloud.is_point_cloud());
    assert_eq!(cloud.normals().unwrap(), [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]);
}

#[test]
fn headers_of_off() {
    let read =
        |text: &str| Mesh::read(MeshFormat::Off, text.as_bytes(), Path::new("a.off")).unwrap();
    let body = "0 0 0\n1 0 0\n1 1 0\n0 1 0\n4 0 1 2 3 255 0 0\n";
    for header in [
        "OFF\n4 1 0\n",
        "OFF 4 1 0\n",
        "OFF4 1 0\n",
        "4 1\n",
        "# a\nCOFF # b\n\n# c\n4 1 4 # d\n",
    ] {
        let mesh = read(&format!("{header}{body}"));
        assert_eq!(mesh.triangles(), [[0, 1, 2], [0, 2, 3]], "{header:?}");
    }
    let coloured = read("STCOFF\n3 1 0\n0 0 0 1 0 0 1\n1 0 0 1 0 0 1\n0 1 0 1 0 0 1\n3 0 1 2\n");
    assert_eq!(coloured.triangles().len(), 1);
    let cloud = read("NOFF\n2 0 0\n0 0 0 0 0 5\n1 0 0 0 1 0\n");
    assert_eq!(cloud.normals().unwrap(), [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]);
}

#[test]
fn stl_that_says_solid_and_is_binary() {
    let mut bytes = std::fs::read(fixture("knot.stl")).unwrap();
    bytes[..16].copy_from_slice(b"solid facet loop");
    let mesh = Mesh::read(MeshFormat::Stl, &bytes, Path::new("a.stl")).unwrap();
    assert_eq!(mesh, open("knot.stl"));
    // A loop of four is two triangles, the sign of zero makes no other vertex.
    let text = "SOLID\nfacet normal 0 0 1\nouter loop\nvertex 0 0 0\nvertex 1 0 0\nvertex 1 1 0\n\
                vertex -0 1 0\nendloop\nendfacet\nfacet normal 0 0 1\nouter loop\nvertex -0 0 -0\n\
                vertex 1 1 0\nvertex 0 1 0\nendloop\nendfacet\nendsolid\n";
    let mesh = Mesh::read(MeshFormat::Stl, text.as_bytes(), Path::new("a.stl")).unwrap();
    assert_eq!(mesh.triangles(), [[0, 1, 2], [0, 2, 3], [0, 2, 3]]);
    assert_eq!(mesh.vertices().len(), 4);
}

#[test]
fn strips_of_ply() {
    let text = "ply\nformat ascii 1.0\nelement vertex 5\nproperty float x\nproperty float y\n\
                property float z\nelement tristrips 1\nproperty list int int vertex_indices\n\
                end_header\n0 0 0\n1 0 0\n0 1 0\n1 1 0\n0 2 0\n8 0 1 2 3 -1 2 3 4\n";
    let mesh = Mesh::read(MeshFormat::Ply, text.as_bytes(), Path::new("a.ply")).unwrap();
    assert_eq!(mesh.triangles(), [[0, 1, 2], [2, 1, 3], [2, 3, 4]]);
}

/// A glTF file of this JSON, in which BUFFER stands for 4 vertices of a square and 6 indices.
fn gltf(json: &str) -> Mesh {
    let mut bytes = Vec::new();
    for vertex in [
        [0_f32, 0.0, 0.0],
        [1.0, 0.0, 0.0],
        [1.0, 1.0, 0.0],
        [0.0, 1.0, 0.0],
    ] {
        bytes.extend(vertex.iter().flat_map(|x| x.to_le_bytes()));
    }
    bytes.extend([0, 1, 2, 0, 2, 3]);
    bytes.extend([0_u16, 1, 2, 3].iter().flat_map(|i| i.to_le_bytes()));
    // Sparse: the last vertex elsewhere.
    bytes.extend([3, 0]);
    bytes.extend([0_f32, 2.0, 0.0].iter().flat_map(|x| x.to_le_bytes()));
    bytes.extend(
        [0_i16, 0, 0, 0, 32767, 0, 0, 0, -32768, -32767, 0, 0]
            .iter()
            .flat_map(|x| x.to_le_bytes()),
    );
    let uri = format!("data:application/octet-stream;base64,{}", base64(&bytes));
    let json = json.replace("BUFFERS", &format!(
        "\"asset\":{{\"version\":\"2.0\"}},\"buffers\":[{{\"byteLength\":{},\"uri\":\"{uri}\"}}],\
         \"bufferViews\":[{{\"buffer\":0,\"byteLength\":48}},\
         {{\"buffer\":0,\"byteOffset\":48,\"byteLength\":6}},\
         {{\"buffer\":0,\"byteOffset\":54,\"byteLength\":8}},\
         {{\"buffer\":0,\"byteOffset\":62,\"byteLength\":2}},\
         {{\"buffer\":0,\"byteOffset\":64,\"byteLength\":12}},\
         {{\"buffer\":0,\"byteOffset\":76,\"byteLength\":24,\"byteStride\":8}}],\
         \"accessors\":[{{\"bufferView\":0,\"componentType\":5126,\"count\":4,\"type\":\"VEC3\"}},\
         {{\"bufferView\":1,\"componentType\":5121,\"count\":6,\"type\":\"SCALAR\"}},\
         {{\"bufferView\":2,\"componentType\":5123,\"count\":4,\"type\":\"SCALAR\"}},\
         {{\"bufferView\":0,\"componentType\":5126,\"count\":4,\"type\":\"VEC3\",\"sparse\":{{\"count\":1,\
         \"indices\":{{\"bufferView\":3,\"componentType\":5121}},\"values\":{{\"bufferView\":4}}}}}},\
         {{\"bufferView\":5,\"componentType\":5122,\"normalized\":true,\"count\":3,\"type\":\"VEC3\"}}]",
        bytes.len()
    ));
    Mesh::read(MeshFormat::Gltf, json.as_bytes(), Path::new("a.gltf")).unwrap()
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, i| {
            bits << 8 | u32::from(*chunk.get(i).unwrap_or(&0))
        });
        for i in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * i) & 63) as usize] as char;
            text.push(if i > chunk.len() { '=' } else { letter });
        }
    }
    text
}

#[test]
fn primitives_of_gltf() {
    let mesh = |primitive: &str| {
        gltf(&format!(
            "{{BUFFERS,\"meshes\":[{{\"primitives\":[{primitive}]}}]}}"
        ))
    };
    let square = [[0, 1, 2], [0, 2, 3]];
    let indexed = mesh(r#"{"attributes":{"POSITION":0},"indices":1}"#);
    assert_eq!(indexed.triangles(), square);
    // A strip turns every other triangle; a fan begins each with its newer corners.
    let strip = mesh(r#"{"attributes":{"POSITION":0},"indices":2,"mode":5}"#);
    assert_eq!(strip.triangles(), [[0, 1, 2], [1, 3, 2]]);
    let fan = mesh(r#"{"attributes":{"POSITION":0},"mode":6}"#);
    assert_eq!(fan.triangles(), [[1, 2, 0], [2, 3, 0]]);
    let points = mesh(r#"{"attributes":{"POSITION":0,"NORMAL":0},"mode":0}"#);
    assert!(points.is_point_cloud() && points.vertices().len() == 4);
    assert_eq!(points.normals().unwrap()[1], [1.0, 0.0, 0.0]);
    // Lines are nothing, and points beside triangles are not.
    let mixed = mesh(
        r#"{"attributes":{"POSITION":0},"mode":0},{"attributes":{"POSITION":0},"mode":1},
           {"attributes":{"POSITION":0},"indices":1}"#,
    );
    assert_eq!((mixed.vertices().len(), mixed.triangles().len()), (4, 2));
    let sparse = mesh(r#"{"attributes":{"POSITION":3},"indices":1}"#);
    assert_eq!(sparse.vertices()[3], [0.0, 2.0, 0.0]);
    assert_eq!(sparse.vertices()[..3], indexed.vertices()[..3]);
    let quantized = mesh(r#"{"attributes":{"POSITION":4}}"#);
    assert_eq!(
        quantized.vertices(),
        [[0.0; 3], [1.0, 0.0, 0.0], [-1.0, -1.0, 0.0]]
    );
}

#[test]
fn nodes_of_gltf() {
    let meshes = r#""meshes":[{"primitives":[{"attributes":{"POSITION":0},"indices":1}]}]"#;
    // Twice the same mesh: one turned by a quarter about z, scaled, moved and moved again by its
    // parent; one mirrored, whose triangles are turned for that.
    let half = std::f64::consts::FRAC_1_SQRT_2;
    let mesh = gltf(&format!(
        "{{BUFFERS,{meshes},\"scene\":1,\"scenes\":[{{\"nodes\":[3]}},{{\"nodes\":[0,2]}}],\"nodes\":[\
         {{\"translation\":[10,0,0],\"children\":[1]}},\
         {{\"mesh\":0,\"rotation\":[0,0,{half},{half}],\"scale\":[2,1,1],\"translation\":[0,5,0]}},\
         {{\"mesh\":0,\"matrix\":[-1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,7,1]}},\
         {{\"mesh\":0,\"scale\":[99,99,99]}}]}}"
    ));
    let expected = [
        [10.0, 5.0, 0.0],
        [10.0, 7.0, 0.0],
        [9.0, 7.0, 0.0],
        [9.0, 5.0, 0.0],
        [0.0, 0.0, 7.0],
        [-1.0, 0.0, 7.0],
        [-1.0, 1.0, 7.0],
        [0.0, 1.0, 7.0],
    ];
    assert!(
        furthest(mesh.vertices(), &expected) < 1e-6,
        "{:?}",
        mesh.vertices()
    );
    assert_eq!(
        mesh.triangles(),
        [[0, 1, 2], [0, 2, 3], [4, 6, 5], [4, 7, 6]]
    );
    let oriented = mesh.sample_oriented(64, 0).unwrap();
    assert!(oriented.normals.iter().all(|n| n[2] > 0.999));
    // Without a scene, everything that is no child.
    let all = gltf(&format!(
        "{{BUFFERS,{meshes},\"nodes\":[{{\"children\":[2]}},{{\"mesh\":0}},{{\"mesh\":0}}]}}"
    ));
    assert_eq!(all.triangles().len(), 4);
}

#[test]
fn rows_of_columns() {
    let read = |name: &str, text: &str| {
        Mesh::read(MeshFormat::Xyz, text.as_bytes(), Path::new(name)).unwrap()
    };
    for text in [
        "1 2 3\n4 5 6\n",
        "1,2,3\r\n4,5,6",
        "# a\nx y z\n1;2;3 // b\n\n4 5 6",
        "2\n1 2 3\n4 5 6\n",
    ] {
        let cloud = read("a.xyz", text);
        assert_eq!(
            cloud.vertices(),
            [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]],
            "{text:?}"
        );
        assert_eq!(cloud.normals(), None);
    }
    let normals = "1 2 3 0 0 1\n4 5 6 0.6 0.8 0\n";
    assert_eq!(
        read("a.xyz", normals).normals().unwrap()[1],
        [0.6, 0.8, 0.0]
    );
    assert_eq!(read("a.xyzrgb", normals).normals(), None);
    assert_eq!(
        read("a.xyz", "1 2 3 0 0 1\n4 5 6 255 128 0\n").normals(),
        None
    );
    assert_eq!(
        read("a.pts", "1\n1 2 3 -900 10 20 30\n").vertices(),
        [[1.0, 2.0, 3.0]]
    );
}

#[test]
fn meshes_are_found_by_their_extensions() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    for name in [
        "cow/1.ply",
        "cow/2.GLB",
        "pot/b/1.obj",
        "pot/notes.txt",
        "pot/.2.obj",
    ] {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "").unwrap();
    }
    let expected = [
        ("cow/1.ply", "cow"),
        ("cow/2.GLB", "cow"),
        ("pot/b/1.obj", "pot"),
    ];
    let files = mesh_files(root).unwrap();
    assert_eq!(files, expected.map(|(path, _)| root.join(path)));
    let classes = meshes_by_class(root).unwrap();
    assert_eq!(
        classes,
        expected.map(|(path, class)| (root.join(path), class.to_owned()))
    );
    let error = mesh_files(root.join("pot/none")).unwrap_err().to_string();
    assert!(error.contains("none: cannot read"), "{error}");
    std::fs::create_dir(root.join("empty")).unwrap();
    let error = mesh_files(root.join("empty")).unwrap_err().to_string();
    assert!(
        error.contains("has no meshes") && error.contains("xyz"),
        "{error}"
    );
    assert!(is_mesh_path("a.StL") && !is_mesh_path("a.stl.gz") && !is_mesh_path("ply"));
    for extension in MeshFormat::EXTENSIONS {
        assert!(
            MeshFormat::from_path(format!("a.{extension}")).is_some(),
            "{extension}"
        );
    }
}
