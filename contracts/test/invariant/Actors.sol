// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Test} from "forge-std/Test.sol";

import {Escrow} from "../../src/Escrow.sol";
import {IEscrowTypes} from "../../src/IEscrowTypes.sol";
import {TestToken} from "../../src/TestToken.sol";
import {Replay} from "../replay/Replay.sol";

/// @notice Two requesters and two providers, each with a wallet and a hot key; what they agreed on,
/// and what was seen of it. Ghosts are counted from outside and never read from the escrow.
abstract contract Actors is Test {
    Escrow public immutable ESCROW;
    TestToken public immutable TOKEN;
    Replay public immutable REPLAY = new Replay();
    address internal constant ARBITER = address(0xA7B);
    address internal constant ANYONE = address(0xA11CE);

    IEscrowTypes.Terms[] internal _terms;
    bytes32[] public ids;
    bytes32[] internal _touched;
    mapping(bytes32 => uint256) public paidBefore;
    mapping(bytes32 => uint256) public bestVoucher;
    mapping(bytes32 => bool) public ended;
    mapping(string => uint256) public calls;
    uint256 public deposited;
    uint256 public withdrawn;
    uint256 public lowered;
    uint256 public reopened;
    uint256 internal _now;

    constructor(Escrow escrow, TestToken token) {
        (ESCROW, TOKEN) = (escrow, token);
        _now = block.timestamp;
        vm.recordLogs();
        for (uint256 i; i < 4; ++i) {
            address account = accounts(i);
            token.mint(account, 1e12);
            vm.startPrank(account);
            token.approve(address(escrow), type(uint256).max);
            escrow.deposit(address(token), 5e11);
            escrow.stake(address(token), 2e11);
            vm.stopPrank();
            deposited += 5e11;
        }
        REPLAY.feed(vm.getRecordedLogs(), address(escrow));
    }

    /// @dev Time only moves by steps that make windows matter. What the step logged is replayed.
    modifier step(uint256 seed) {
        _now += seed % 4 == 0 ? seed % 400 : seed % 20;
        vm.warp(_now);
        vm.recordLogs();
        _;
        REPLAY.feed(vm.getRecordedLogs(), address(ESCROW));
        for (uint256 i; i < _touched.length; ++i) {
            bytes32 id = _touched[i];
            IEscrowTypes.Agreement memory a = ESCROW.agreement(id);
            if (a.paid < paidBefore[id]) ++lowered;
            paidBefore[id] = a.paid;
            bool over = a.status >= IEscrowTypes.Status.Closed;
            if (ended[id] && !over) ++reopened;
            ended[id] = over;
        }
        delete _touched; // others cannot have changed unsaid: always_LogsRebuildEverything
    }

    modifier onceOpened() {
        if (ids.length == 0) return;
        _;
    }

    /// @dev 0 and 1 are requesters, 2 and 3 providers.
    function accounts(uint256 i) public pure returns (address) {
        return vm.addr(0xA1 + i);
    }

    function signers(uint256 i) public pure returns (address) {
        return vm.addr(0xB1 + i);
    }

    function count() public view returns (uint256) {
        return ids.length;
    }

    function termsAt(uint256 i) public view returns (IEscrowTypes.Terms memory) {
        return _terms[i];
    }

    function _keyOf(address account) internal pure returns (uint256) {
        for (uint256 i; i < 4; ++i) {
            if (accounts(i) == account) return 0xA1 + i;
            if (signers(i) == account) return 0xB1 + i;
        }
        revert("nobody");
    }

    function _signBy(address account, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(_keyOf(account), digest);
        return abi.encodePacked(r, s, v);
    }

    function _pick(uint256 seed) internal returns (IEscrowTypes.Terms memory terms, bytes32 id) {
        uint256 i = seed % ids.length;
        // Mostly the newest, so that long runs do not only meet closed agreements.
        if (seed % 3 != 0) i = ids.length - 1 - (seed % (ids.length < 4 ? ids.length : 4));
        // And mostly a live one.
        for (uint256 tries; ended[ids[i]] && seed % 7 != 0 && tries < 8 && i > 0; ++tries) {
            --i;
        }
        _touched.push(ids[i]);
        return (_terms[i], ids[i]);
    }

    /// @dev One of the newest in that status, else the one given.
    function _newest(IEscrowTypes.Status status, IEscrowTypes.Terms memory terms, bytes32 id)
        internal
        returns (IEscrowTypes.Terms memory, bytes32)
    {
        for (uint256 i = ids.length > 8 ? ids.length - 8 : 0; i < ids.length; ++i) {
            if (ESCROW.agreement(ids[i]).status == status) (terms, id) = (_terms[i], ids[i]);
        }
        _touched.push(id);
        return (terms, id);
    }

    /// @dev Sends and counts; a step that the contract refuses is a step too.
    function _try(string memory name, address by, bytes memory data) internal returns (bool done) {
        vm.prank(by);
        (done,) = address(ESCROW).call(data);
        if (done) ++calls[name];
        else vm.getRecordedLogs(); // forge also records what was reverted; a chain does not
    }
}
